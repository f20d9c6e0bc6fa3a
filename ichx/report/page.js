"use strict";
// Tooltips by pointer and arrow keys, enlarged slices. The figures are complete without this script. An element that gets new
// figures dispatches the event "figures".
(() => {
  const tip = document.getElementById("tip");
  const chosen = () => document.querySelector("input[name=label]:checked")?.value ?? "all";
  let follow = null; // shows the current point at its new position
  const svg = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);

  const connect = (chart) => {
    const series = JSON.parse(chart.dataset.points).filter((one) => one.at.length);
    const cursor = svg("circle");
    cursor.setAttribute("class", "cursor");
    cursor.setAttribute("r", "5");
    let now = null; // [series, point] of the tooltip

    const shown = () => series.filter((one) => !one.label || chosen() === "all" || one.label === chosen());
    const place = (at) => new DOMPoint(at[0], at[1]).matrixTransform(chart.getScreenCTM());

    const show = (one, index) => {
      now = [one, index];
      follow = () => show(one, index);
      cursor.setAttribute("cx", one.at[index][0]);
      cursor.setAttribute("cy", one.at[index][1]);
      chart.append(cursor);
      tip.textContent = one.tooltips[index];
      tip.hidden = false;
      const spot = place(one.at[index]), box = tip.getBoundingClientRect();
      const left = spot.x + 12 + box.width > innerWidth ? spot.x - 12 - box.width : spot.x + 12;
      const top = spot.y - 10 - box.height < 0 ? spot.y + 14 : spot.y - 10 - box.height;
      tip.style.left = Math.max(4, Math.min(left, innerWidth - box.width - 4)) + "px";
      tip.style.top = top + "px";
    };
    const hide = () => { now = follow = null; cursor.remove(); tip.hidden = true; };

    chart.addEventListener("pointermove", (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
      let best = Infinity, found = null;
      for (const one of shown()) one.at.forEach((p, index) => {
        const far = (p[0] - at.x) ** 2 + (p[1] - at.y) ** 2;
        if (far < best) { best = far; found = [one, index]; }
      });
      if (found && best < 60 ** 2) show(...found); else hide();
    });
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const all = shown(), step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (event.key === "Escape") hide();
      if (!step || !all.length) return;
      event.preventDefault();
      const which = now ? all.indexOf(now[0]) : -1;
      if (which < 0) { show(all[0], 0); return; }
      const one = all[(which + step[0] + all.length) % all.length];
      show(one, Math.max(0, Math.min(one.at.length - 1, now[1] + step[1])));
    });
  };
  const connectAll = (place) => { for (const chart of place.querySelectorAll("svg.chart")) connect(chart); };
  connectAll(document);
  addEventListener("figures", (event) => { tip.hidden = true; connectAll(event.target); });
  addEventListener("scroll", () => follow?.(), { passive: true, capture: true });

  const large = document.getElementById("large");
  if (!large) return; // a page without slices
  const enlarge = (views) => {
    const copy = views.closest(".card").cloneNode(true);
    copy.querySelector("svg.views").removeAttribute("tabindex");
    // Without ids: they stay unique, and `use` and names still find the originals.
    for (const one of [copy, ...copy.querySelectorAll("[id]")]) one.removeAttribute("id");
    large.querySelector("div").replaceChildren(copy);
    large.showModal();
  };
  for (const views of document.querySelectorAll("svg.views")) {
    views.addEventListener("click", () => enlarge(views));
    views.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault(); // the same key press would activate the dialog's focused button, which closes it
      enlarge(views);
    });
  }
  large.querySelector("button").addEventListener("click", () => large.close());
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
})();
