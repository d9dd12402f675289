"""Kinds of files: images that are read, images that another package reads, and what is none, by suffix or content."""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from onelook.errors import plural, quote_name
from onelook.files import require_regular

FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD", "QOI", "SGI"),
    *("SUN", "TGA", "TIFF", "WEBP"),
)
"""Formats of Pillow that are tried on a file. For others it starts programs (EPS), needs a handler or has no pixels."""
SUFFIXES = (
    *(".avif", ".bmp", ".dds", ".dib", ".gif", ".icns", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".sgi", ".tga", ".tif", ".tiff"),
    ".webp",
)
"""Suffixes of these formats."""
HEAD = 4096
"""Bytes by which a file without such a suffix is recognised."""


@dataclass(frozen=True)
class Kind:
    """Files that are alike in whether and how they are read."""

    name: str
    remedy: str = ""
    """How to have them read, as the end of a sentence."""
    suffixes: tuple[str, ...] = ()
    package: str = ""
    """Package that reads them, of the extra whose name the remedy has."""

    @property
    def readable(self) -> bool:
        return self is IMAGE or (self.package != "" and importlib.util.find_spec(self.package) is not None)


def _extra(name: str, extra: str, package: str, suffixes: str) -> Kind:
    return Kind(name, f'pip install "onelook[{extra}]" reads such files', tuple(suffixes.split()), package)


def _other(name: str, remedy: str, suffixes: str) -> Kind:
    return Kind(name, remedy, tuple(suffixes.split()))


IMAGE = Kind("image", suffixes=SUFFIXES)
OTHER = Kind("other file")
HEIC = _extra("HEIC file", "heic", "pi_heif", ".heic .heif .hif .heics .heifs")
RAW = _extra(
    *("camera RAW file", "raw", "rawpy"),
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .k25 .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 "
    ".rwl .sr2 .srf .srw .x3f",
)
DICOM = _extra("DICOM file", "dicom", "pydicom", ".dcm .dicom .dic")
PNG_INSTEAD = "save as PNG or TIFF"
SVG = _other("SVG drawing", PNG_INSTEAD, ".svg .svgz")
PDF = _other("PDF document", "save pages or pictures as images", ".pdf")
POSTSCRIPT = _other("PostScript drawing", PNG_INSTEAD, ".eps .ps .epsf .ai")
METAFILE = _other("Windows metafile", PNG_INSTEAD, ".wmf .emf")
JPEG_XL = _other("JPEG XL file", PNG_INSTEAD, ".jxl")
RADIANCE = _other("high-dynamic-range image", PNG_INSTEAD, ".exr .hdr .pic .pfm")
FITS = _other("FITS file", PNG_INSTEAD, ".fits .fit .fts")
VOLUME = _other("medical volume", "save slices as PNG", ".nii .mha .mhd .nrrd .mnc")
MICROSCOPE = _other("microscope file", "save as TIFF", ".czi .lif .nd2 .oib .oif .vsi .zvi .mrxs .scn .ndpi .svs .ims")
PROGRAM = _other("drawing of another program", PNG_INSTEAD, ".xcf .kra .cdr .afphoto .afdesign .sketch .indd .dwg .dxf")
VIDEO = _other(
    *("video", "save frames as images"), ".mp4 .mov .avi .mkv .webm .mpg .mpeg .m4v .3gp .wmv .mts .m2ts .flv"
)
SOUND = _other(
    "sound file", "--features takes vectors of such files", ".wav .mp3 .flac .ogg .oga .opus .m4a .aac .aif .aiff .wma"
)
ARCHIVE = _other("archive", "unpack first", ".zip .tar .gz .tgz .bz2 .xz .7z .rar")
OFFICE = _other(
    "document", "save the pictures inside as files", ".doc .docx .ppt .pptx .xls .xlsx .odt .odp .ods .pages"
)
KINDS = (
    *(IMAGE, HEIC, RAW, DICOM, SVG, PDF, POSTSCRIPT, METAFILE, JPEG_XL, RADIANCE, FITS, VOLUME, MICROSCOPE, PROGRAM),
    *(VIDEO, SOUND, ARCHIVE, OFFICE),
)
"""Kinds that a person may take for images, and so is told of."""
BY_SUFFIX = {suffix: kind for kind in KINDS for suffix in kind.suffixes}

BEGINNINGS: tuple[tuple[bytes, Kind], ...] = (
    (rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|II[*+]\x00|MM\x00[*+]|RIFF....WEBP", IMAGE),
    (rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|....ftyp(?:avi[fs]|mif1.{4,60}avi[fs])", IMAGE),
    (rb"BM....\x00{4}|8BPS\x00\x01|qoif|DDS \x7c|icns|P[1-6]\s+[\d#]", IMAGE),
    (rb"....ftyp(?:hei[cxms]|hev[cmxs]|mif1|msf1)", HEIC),
    (rb"....ftypcrx |FUJIFILMCCD-RAW|IIR[OS]\x08|MMOR|IIU\x00|FOVb|\x00MRM|II\x1a\x00\x00\x00HEAPCCDR", RAW),
    (rb".{128}DICM", DICOM),
    (rb"(?:\xef\xbb\xbf)?\s*(?:<svg[\s>]|<(?:\?xml|!--|!DOCTYPE svg).*?<svg[\s>])", SVG),
    (rb"%PDF-", PDF),
    (rb"%!PS|\xc5\xd0\xd3\xc6", POSTSCRIPT),
    (rb"\xd7\xcd\xc6\x9a|\x01\x00{3}.{36} EMF", METAFILE),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n", JPEG_XL),
    (rb"\x76\x2f\x31\x01|#\?R(?:ADIANCE|GBE)", RADIANCE),
    (rb"SIMPLE  =", FITS),
    (rb"RIFF....WAVE|ID3|fLaC|OggS|\xff[\xfb\xf3\xf2]|FORM....AIF|....ftypM4A", SOUND),
    (rb"....ftyp|RIFF....AVI |\x1a\x45\xdf\xa3|\x00\x00\x01[\xba\xb3]", VIDEO),
    (rb"gimp xcf", PROGRAM),
    (rb"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b|BZh|\xfd7zXZ", ARCHIVE),
)  # fmt: skip
"""How the content of a kind begins, the first that fits; many photographs come under other names or under none."""
PATTERNS = tuple((re.compile(beginning, re.DOTALL), kind) for beginning, kind in BEGINNINGS)


def identify(head: bytes) -> Kind:
    """The kind of a file by how it begins.

    >>> identify(b"%PDF-1.7").name
    'PDF document'
    """
    return next((kind for pattern, kind in PATTERNS if pattern.match(head[:HEAD])), OTHER)


def find_kind(path: Path) -> Kind:
    """The kind of a file, by its suffix where that is of an image, or else by content. Raises OSError.

    Only a regular file is opened, and only its beginning is read.
    """
    require_regular(path)
    by_suffix = BY_SUFFIX.get(path.suffix.lower(), OTHER)
    if by_suffix.readable:
        return by_suffix
    with path.open("rb") as file:
        found = identify(file.read(HEAD))
    vague = found is OTHER or (by_suffix is not OTHER and found in (ARCHIVE, VIDEO))  # .docx is a zip, .kra too
    return by_suffix if vague else RAW if found is IMAGE and by_suffix is RAW else found


def has_image_suffix(path: PurePath) -> bool:
    """Whether a file is an image that can be read, by its suffix alone."""
    return BY_SUFFIX.get(path.suffix.lower(), OTHER).readable


@dataclass(frozen=True)
class PassedOver:
    """Files of one kind that are not read."""

    kind: Kind
    names: tuple[str, ...]

    def __str__(self) -> str:
        n = plural(len(self.names), self.kind.name)
        verb = "was" if len(self.names) == 1 else "were"
        remedy = f"; {self.kind.remedy}" if self.kind.remedy else ""
        return f"{n} {verb} passed over, {quote_name(self.names[0])} first{remedy}."


def group_by_kind(found: Sequence[tuple[str, Kind]]) -> tuple[PassedOver, ...]:
    """Files that cannot be read, one entry for each kind, in the order of KINDS; other files come last."""
    groups: dict[Kind, list[str]] = {}
    for name, kind in found:
        groups.setdefault(kind, []).append(name)
    return tuple(PassedOver(kind, tuple(groups[kind])) for kind in (*KINDS, OTHER) if kind in groups)
