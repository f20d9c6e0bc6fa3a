// Drawing a slice into a canvas of its own size, with WebGL2 or, without a GPU, a 2D canvas, which is faster than WebGL2 in
// software. Both look the grey level of each pixel up in the same table, so that they draw the same pixels.

const VERTEX = `#version 300 es
void main() {
  vec2 corner = vec2(float((gl_VertexID << 1) & 2), float(gl_VertexID & 2));
  gl_Position = vec4(corner * 2.0 - 1.0, 0.0, 1.0);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
precision highp isampler2D;
uniform isampler2D hu;
uniform sampler2D levels;
out vec4 colour;
void main() {
  ivec2 size = textureSize(hu, 0);
  int index = texelFetch(hu, ivec2(int(gl_FragCoord.x), size.y - 1 - int(gl_FragCoord.y)), 0).r + 32768;
  colour = vec4(vec3(texelFetch(levels, ivec2(index & 255, index >> 8), 0).r), 1.0);
}`;
const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i;

/**
 * Return a painter for a slice: `canvas`, `kind` ("webgl2" or "2d"), `draw(slice, levels)` and `clear()`.
 * A slice has `rows`, `columns` and `hu` (Int16Array); `levels` comes from `greyLevels`.
 */
export function createPainter() {
  const canvas = document.createElement("canvas");
  const options = { alpha: false, antialias: false, depth: false, preserveDrawingBuffer: true, failIfMajorPerformanceCaveat: true };
  const gl = canvas.getContext("webgl2", options);
  if (!gl) return new CanvasPainter(canvas);
  const named = gl.getExtension("WEBGL_debug_renderer_info");
  try {
    if (named && SOFTWARE.test(gl.getParameter(named.UNMASKED_RENDERER_WEBGL))) throw new Error("no GPU");
    return new GlPainter(canvas, gl);
  } catch {
    gl.getExtension("WEBGL_lose_context")?.loseContext();
    return new CanvasPainter(document.createElement("canvas"));
  }
}

class GlPainter {
  kind = "webgl2";
  #gl;
  #slice = null;
  #levels = null;

  constructor(canvas, gl) {
    this.canvas = canvas;
    this.#gl = gl;
    this.#prepare();
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => {
      const slice = this.#slice, levels = this.#levels;
      this.#slice = this.#levels = null;
      this.#prepare();
      if (slice) this.draw(slice, levels);
    });
  }

  #prepare() {
    const gl = this.#gl, program = gl.createProgram();
    for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error("no shader");
    gl.useProgram(program);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    for (const [unit, name] of [[0, "hu"], [1, "levels"]]) {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
      for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
      for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
      gl.uniform1i(gl.getUniformLocation(program, name), unit);
    }
  }

  draw(slice, levels) {
    const gl = this.#gl;
    if (slice !== this.#slice) {
      if (this.canvas.width !== slice.columns || this.canvas.height !== slice.rows) {
        this.canvas.width = slice.columns;
        this.canvas.height = slice.rows;
      }
      gl.viewport(0, 0, slice.columns, slice.rows);
      gl.activeTexture(gl.TEXTURE0);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.R16I, slice.columns, slice.rows, 0, gl.RED_INTEGER, gl.SHORT, slice.hu);
      this.#slice = slice;
    }
    if (levels !== this.#levels) {
      gl.activeTexture(gl.TEXTURE1);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.R8, 256, 256, 0, gl.RED, gl.UNSIGNED_BYTE, levels);
      this.#levels = levels;
    }
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  clear() {
    this.#slice = null;
    this.#gl.clear(this.#gl.COLOR_BUFFER_BIT);
  }
}

class CanvasPainter {
  kind = "2d";
  #context;
  #image = null;

  constructor(canvas) {
    this.canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
  }

  draw(slice, levels) {
    const { rows, columns, hu } = slice;
    if (this.#image?.width !== columns || this.#image.height !== rows) {
      this.canvas.width = columns;
      this.canvas.height = rows;
      this.#image = this.#context.createImageData(columns, rows);
    }
    const words = new Uint32Array(this.#image.data.buffer);
    for (let i = 0; i < hu.length; i++) words[i] = 0xff000000 | (levels[hu[i] + 32768] * 0x010101);
    this.#context.putImageData(this.#image, 0, 0);
  }

  clear() {
    this.#context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }
}
