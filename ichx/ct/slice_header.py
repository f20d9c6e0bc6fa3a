"""The header of one CT slice. Files are parsed in `ichx.ct.header`."""

from dataclasses import dataclass

from ichx.ct.acquisition import UNKNOWN, Acquisition


@dataclass(frozen=True)
class SliceHeader:
    """The header of one slice. Missing ids are empty; `position` and `spacing` (row, column) in mm.

    `window` is the (centre, width) in HU that counts: the file's first, or the brain window where `window_missing`.
    `padding` is the stored value of pixels without measurement. `frame` is 0 for a file with one frame, otherwise from
    1; then `slice_id` ends in `#frame`, `instance_number` is the frame, and `defect` names the reason (a key of
    `DEFECTS`) why this frame of the file is not a slice. Missing geometry is None, not a defect. `assumptions` are keys
    of `ASSUMPTIONS`, in their order, without the two that other fields contain.
    """

    slice_id: str
    patient_id: str
    study_id: str
    series_id: str
    instance_number: int | None
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    padding: int | None
    slope: float
    intercept: float
    window: tuple[float, float]
    window_missing: bool
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    transfer_syntax: str
    frame: int = 0
    defect: str = ""
    detail: str = ""
    """What was found, for a `defect`."""
    assumptions: tuple[str, ...] = ()
    padding_limit: int | None = None
    """The other end of the range of padding values."""
    shift: int = 0
    """Bits below the stored ones, by HighBit."""
    acquisition: Acquisition = UNKNOWN
    image_type: str = ""
    """Values of the ImageType, or of the frame's type, in capitals, joined by `/`."""

    @property
    def intercept_suspect(self) -> bool:
        """Whether the header is of the family in which some RSNA files, all of one frame, carry a wrong intercept."""
        family = self.bits_stored == 12 and not self.signed and self.intercept > -100
        return self.frame == 0 and family and "rescale_missing" not in self.assumptions

    @property
    def unproven(self) -> bool:
        """Whether only the values can show that they are HU."""
        return "rescale_missing" in self.assumptions or "rescale_type_unknown" in self.assumptions

    @property
    def frame_bytes(self) -> int:
        """Return how many bytes the slice has uncompressed."""
        return self.rows * self.columns * self.bits_allocated // 8
