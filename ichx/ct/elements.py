"""The bytes of a DICOM file to the raw values of the few elements that a CT slice needs, and the place of its pixels.

Names, dates and free text are never read: all other elements are passed over by their length. Not for what the values
mean (`ichx.ct.header`). The encoding is that of DICOM PS3.5, chapter 7; common deviations of writers are read too.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import BinaryIO, Final

from ichx.ct.defects import MOST_FRAMES, DicomDefectError
from ichx.ct.streams import FIRST, Inflated, Plain, Window
from ichx.ct.syntaxes import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE

IMAGE_TYPE, SOP_CLASS, SLICE_ID, MODALITY = 0x00080008, 0x00080016, 0x00080018, 0x00080060
PATIENT_ID, STUDY_ID, SERIES_ID, INSTANCE_NUMBER = 0x00100020, 0x0020000D, 0x0020000E, 0x00200013
POSITION, ORIENTATION, SPACING = 0x00200032, 0x00200037, 0x00280030
SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS = 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011
ALLOCATED, STORED, SIGNED, PADDING = 0x00280100, 0x00280101, 0x00280103, 0x00280120
CENTRE, WIDTH, INTERCEPT, SLOPE = 0x00281050, 0x00281051, 0x00281052, 0x00281053
FRAME_TYPE, HIGH_BIT, PADDING_LIMIT, RESCALE_TYPE = 0x00089007, 0x00280102, 0x00280121, 0x00281054
FRAME_OFFSETS, FRAME_LENGTHS = 0x7FE00001, 0x7FE00002
MANUFACTURER, INSTITUTION, MODEL, SEX, AGE = 0x00080070, 0x00080080, 0x00081090, 0x00100040, 0x00101010
CONTRAST_AGENT, BODY_PART, THICKNESS, KVP, KERNEL = 0x00180010, 0x00180015, 0x00180050, 0x00180060, 0x00181210

WANTED: Final = frozenset(
    {
        *(IMAGE_TYPE, SOP_CLASS, SLICE_ID, MODALITY, PATIENT_ID, STUDY_ID, SERIES_ID, INSTANCE_NUMBER),
        *(POSITION, ORIENTATION, SPACING, SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS),
        *(ALLOCATED, STORED, HIGH_BIT, SIGNED, PADDING, PADDING_LIMIT),
        *(CENTRE, WIDTH, INTERCEPT, SLOPE, RESCALE_TYPE, FRAME_OFFSETS, FRAME_LENGTHS),
        *(MANUFACTURER, INSTITUTION, MODEL, SEX, AGE, CONTRAST_AGENT, BODY_PART, THICKNESS, KVP, KERNEL),
    }
)
"""The only elements of a dataset whose values are read."""

WANTED_OF_FRAME: Final = frozenset(
    {
        *(FRAME_TYPE, POSITION, ORIENTATION, SPACING, CENTRE, WIDTH, INTERCEPT, SLOPE, RESCALE_TYPE),
        *(THICKNESS, KVP, KERNEL),
    }
)
"""The only elements of functional groups whose values are read."""

_Sequences = Mapping[int, "_Sequences"]
"""Sequences to be read, by tag, and those in their items."""

_MACROS: Final[_Sequences] = {
    # CT Image Frame Type, Plane Position, Plane Orientation, Pixel Measures, Frame VOI LUT, Pixel Value Transformation,
    # CT Reconstruction, CT X-Ray Details
    tag: {}
    for tag in (
        *(0x00189329, 0x00209113, 0x00209116, 0x00289110, 0x00289132, 0x00289145),
        *(0x00189314, 0x00189325),
    )
}
_SHARED, _PER_FRAME, _MODALITY_LUT = 0x52009229, 0x52009230, 0x00283000
_GROUPS: Final[_Sequences] = {_SHARED: _MACROS, _PER_FRAME: _MACROS, _MODALITY_LUT: {}}

_SYNTAX: Final = 0x00020010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS, _FLOAT_PIXELS, _DOUBLE_PIXELS = 0x7FE00010, 0x7FE00008, 0x7FE00009
_LAST_OF_META, _LAST_BEFORE_PIXELS, _LAST_OF_ITEM = 0x0002FFFF, 0x7FE00007, 0xFFFEDFFF

UNDEFINED: Final = 0xFFFFFFFF
"""The length of a value that ends with a delimiter."""

LARGEST_VALUE: Final = 2**20
"""Bytes; no value that is read here is longer, not even an offset table."""

_LONG_KINDS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_KINDS: Final = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())

Values = dict[int, bytes]
"""Raw values by tag."""


class _Coding:
    """How a dataset is encoded: with or without kinds of values (VR), little or big endian."""

    def __init__(self, *, implicit: bool, big: bool) -> None:
        order = ">" if big else "<"
        self.implicit = implicit
        self.big = big
        self.explicit_head = Struct(f"{order}HH2sH").unpack_from
        self.implicit_head = Struct(f"{order}HHL").unpack_from
        self.length = Struct(f"{order}L").unpack_from


_EXPLICIT = _Coding(implicit=False, big=False)
_IMPLICIT = _Coding(implicit=True, big=False)
_BIG = _Coding(implicit=False, big=True)
_IMPLICIT_BIG = _Coding(implicit=True, big=True)


@dataclass(frozen=True)
class Pixels:
    """Position of the value of PixelData in the (inflated) file; its `length` may be `UNDEFINED`."""

    offset: int
    length: int
    floating: bool


@dataclass(frozen=True)
class Elements:
    """A file's raw values: of the dataset, of all frames together, and of each frame; and the place of the pixels.

    `frames` is empty without functional groups; frames that were not requested have empty values.
    """

    syntax: str
    big: bool
    values: Values
    shared: Values
    frames: list[Values]
    pixels: Pixels | None
    window: Window
    modality_lut: bool
    """Whether there is a Modality LUT Sequence with an item."""
    encoding_assumed: bool
    """Whether the encoding of the dataset is that of its first element, without or against a transfer syntax."""

    def of_frame(self, frame: int) -> Values:
        """Return the values that hold for `frame` (from 1)."""
        own = self.frames[frame - 1] if frame <= len(self.frames) else {}
        return self.values | self.shared | own


@dataclass
class _Found:
    """What stood between two places: values, and the items of sequences, each with its own values flattened."""

    values: Values = field(default_factory=dict)
    items: dict[int, list[Values]] = field(default_factory=dict)


def read_elements(handle: BinaryIO, *, frame: int = 0, last: int = _LAST_BEFORE_PIXELS) -> Elements:
    """Return the elements of the DICOM file at the current position of `handle`, which is read up to its pixels.

    With `frame` only that frame's functional groups are read. With an earlier `last` tag nothing behind it is read, so
    that damage there does not matter. Raises `DicomDefectError` for what is no DICOM file, or a damaged one.
    """
    plain = Plain(handle)
    try:
        window = Window(plain)
        meta, position = _read(window, _start(window), None, _LAST_OF_META, _EXPLICIT, frozenset({_SYNTAX}), {}, 0)
        syntax = meta.values.get(_SYNTAX, b"").decode("latin-1").strip(" \0")
        if syntax == DEFLATED:
            window, position = Window(Inflated(plain, position)), 0
        coding = _coding(window, position, syntax)
        found, position = _read(window, position, None, last, coding, WANTED, _GROUPS, frame)
        pixels = _find_pixels(window, position, coding)
    except OSError as error:
        raise DicomDefectError("unreadable", error.strerror or str(error)) from error
    except zlib.error as error:
        raise DicomDefectError("damaged_header", f"the deflated file cannot be inflated: {error}") from error
    assumed = not syntax or coding.implicit != (syntax == IMPLICIT_LITTLE)
    if not syntax:
        syntax = IMPLICIT_LITTLE if coding.implicit else EXPLICIT_BIG if coding.big else EXPLICIT_LITTLE
    return Elements(
        syntax=syntax,
        big=coding.big,
        values=found.values,
        shared=(found.items.get(_SHARED) or [{}])[0],
        frames=found.items.get(_PER_FRAME, []),
        pixels=pixels,
        window=window,
        modality_lut=bool(found.items.get(_MODALITY_LUT)),
        encoding_assumed=assumed,
    )


def _start(window: Window) -> int:
    """Return the position of the first element, after the preamble if there is one. Raises `DicomDefectError`."""
    data = window.data
    for position in (128, 0):
        if data[position : position + 4] == b"DICM":
            return position + 4
    # Without a prefix, two elements in order have to show that this is DICOM.
    position, previous = 0, 0
    for _ in range(2):
        data = window.reach(position + 12)
        if position + 12 > len(data):
            raise DicomDefectError("not_dicom")
        coding = _EXPLICIT if data[:1] == b"\x02" else _coding(window, 0, "")
        group, element, kind, length = coding.explicit_head(data, position)
        value = position + 8
        if coding.implicit:
            length = coding.implicit_head(data, position)[2]
        elif kind in _LONG_KINDS:
            length, value = coding.length(data, position + 8)[0], position + 12
        tag = group << 16 | element
        if (
            group not in (2, 8)
            or (position and tag <= previous)
            or length > FIRST
            or not (coding.implicit or kind in _LONG_KINDS or kind in _SHORT_KINDS)
        ):
            raise DicomDefectError("not_dicom")
        position, previous = value + length, tag
    return 0


def _coding(window: Window, position: int, syntax: str) -> _Coding:
    """Return the encoding of the dataset: that of the syntax, unless its first element contradicts it."""
    head = window.reach(position + 8)[position : position + 6]
    implicit = not (len(head) == 6 and head[4:].isalpha() and head[4:].isupper())
    # A file that names no syntax shows by its first group, which is small, which byte comes first.
    big = syntax == EXPLICIT_BIG or (not syntax and head[:1] == b"\0" and head[1:2] != b"\0")
    if big:
        return _IMPLICIT_BIG if implicit else _BIG
    return _IMPLICIT if implicit else _EXPLICIT


def _read(
    window: Window,
    position: int,
    end: int | None,
    last: int,
    coding: _Coding,
    wanted: frozenset[int],
    sequences: _Sequences,
    frame: int,
) -> tuple[_Found, int]:
    """Return what is `wanted` from `position` to `end` or to the first tag after `last`, and the end position."""
    found = _Found()
    values, data = found.values, window.data
    known = len(data)
    implicit, explicit_head, implicit_head = coding.implicit, coding.explicit_head, coding.implicit_head
    while end is None or position < end:
        if position + 12 > known:
            data = window.reach(position + 12)
            known = len(data)
            if position + 8 > known:
                _check_reach(position, known)
                break
        window.count()
        value = position + 8
        kind = b""
        if implicit:
            group, element, length = implicit_head(data, position)
        else:
            group, element, kind, length = explicit_head(data, position)
            if kind not in _SHORT_KINDS:
                length, value = _long_head(data, position, kind, length, coding)
        tag = group << 16 | element
        if tag > last:
            break
        if length == UNDEFINED:
            inner = _IMPLICIT if kind == b"UN" else coding
            if tag in sequences:
                found.items[tag], position = _items(
                    window, value, None, inner, sequences[tag], frame if tag == _PER_FRAME else 0
                )
            else:
                position = _pass_over(window, value, inner)
            data = window.data
            known = len(data)
            continue
        position = value + length
        if tag in wanted or tag in sequences:
            if position > known:
                data = window.reach(position)
                known = len(data)
                _check_reach(position, known)
            if tag in sequences:
                inner = _IMPLICIT if kind == b"UN" else coding
                found.items[tag], _ = _items(
                    window, value, position, inner, sequences[tag], frame if tag == _PER_FRAME else 0
                )
            elif length > LARGEST_VALUE:
                raise DicomDefectError("damaged_header", f"element {group:04X},{element:04X} has {length} bytes")
            else:
                values[tag] = data[value:position]
    return found, position


def _long_head(data: bytes, position: int, kind: bytes, length: int, coding: _Coding) -> tuple[int, int]:
    """Return length and place of the value at `position`, whose kind has no short length, or is none at all."""
    if kind in _LONG_KINDS:
        if position + 12 > len(data):
            return 0, position + 12  # the file ends here
        return int(coding.length(data, position + 8)[0]), position + 12
    if kind.isalpha() and kind.isupper():
        return length, position + 8  # a kind that is yet to come
    return int(coding.length(data, position + 4)[0]), position + 8  # an element without kinds among others


def _items(
    window: Window,
    position: int,
    end: int | None,
    coding: _Coding,
    sequences: _Sequences,
    frame: int,
) -> tuple[list[Values], int]:
    """Return each item's values, including those of its sequences, and the end of the sequence.

    With `frame` (from 1) the values of the other items are left empty.
    """
    items: list[Values] = []
    while end is None or position < end:
        data = window.reach(position + 8)
        if position + 8 > len(data):
            _check_reach(position + 8, len(data))
        group, element, length = coding.implicit_head(data, position)
        tag = group << 16 | element
        window.count()
        position += 8
        if tag == _SEQUENCE_END:
            break
        if tag != _ITEM:
            raise DicomDefectError("damaged_header", f"{group:04X},{element:04X} instead of an item")
        if len(items) == MOST_FRAMES:
            raise DicomDefectError("absurd_size", f"more than {MOST_FRAMES} frames")
        stop = None if length == UNDEFINED else position + length
        if frame and len(items) != frame - 1 and stop is not None:
            items.append({})
            position = stop
            continue
        found, after = _read(window, position, stop, _LAST_OF_ITEM, coding, WANTED_OF_FRAME, sequences, 0)
        values = found.values
        for inner in found.items.values():
            values |= inner[0] if inner else {}
        items.append(values)
        position = after + 8 if stop is None else stop  # the item's delimiter has a length too
    return items, position


def _pass_over(window: Window, position: int, coding: _Coding) -> int:
    """Return the place after the value of undefined length at `position`, which may hold others, however deep."""
    levels = [(True, coding)]  # (items are expected, otherwise elements; how they are encoded)
    data = window.data
    while levels:
        window.count()
        if position + 12 > len(data):
            data = window.reach(position + 12)
            if position + 8 > len(data):
                raise DicomDefectError("damaged_header", "a sequence of undefined length has no end")
        in_sequence, coding = levels[-1]
        group, element, length = coding.implicit_head(data, position)
        tag = group << 16 | element
        value = position + 8
        if in_sequence:
            if tag == _SEQUENCE_END:
                levels.pop()
            elif tag != _ITEM:
                raise DicomDefectError("damaged_header", f"{group:04X},{element:04X} instead of an item")
            elif length == UNDEFINED:
                levels.append((False, coding))
            else:
                value += length
        elif tag == _ITEM_END:
            levels.pop()
        else:
            inner = coding
            if not coding.implicit:
                _, _, kind, length = coding.explicit_head(data, position)
                if kind not in _SHORT_KINDS:
                    length, value = _long_head(data, position, kind, length, coding)
                inner = _IMPLICIT if kind == b"UN" else coding
            if length == UNDEFINED:
                levels.append((True, inner))
            else:
                value += length
        position = value
    return position


def _find_pixels(window: Window, position: int, coding: _Coding) -> Pixels | None:
    """Return the pixel element at `position`, or None if there is another element."""
    data = window.reach(position + 12)
    if position + 8 > len(data):
        return None
    group, element, length = coding.implicit_head(data, position)
    value = position + 8
    if not coding.implicit:
        _, _, kind, length = coding.explicit_head(data, position)
        if kind not in _SHORT_KINDS:
            length, value = _long_head(data, position, kind, length, coding)
    tag = group << 16 | element
    if tag not in (_PIXELS, _FLOAT_PIXELS, _DOUBLE_PIXELS):
        return None
    return Pixels(value, length, tag != _PIXELS)


def _check_reach(position: int, known: int) -> None:
    if position > known:
        raise DicomDefectError("damaged_header", f"an element reaches {position - known} bytes beyond the file's end")
