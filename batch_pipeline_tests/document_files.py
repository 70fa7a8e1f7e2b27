"""Documents for tests, made as bytes: PDFs, images, and files that are not what they seem."""

from __future__ import annotations

import base64
import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from email.message import EmailMessage
from typing import Any

FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
PNG_START = b"\x89PNG\r\n\x1a\n"


def pdf(pages: Sequence[str] = ("A page.",), extra: str = "") -> bytes:
    """A PDF with one line of text on each page (an empty one: a blank page).

    `extra` goes into the catalog, as `/OpenAction << … >>` does.
    """
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {extra} >>".encode(),
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        FONT,
    ]
    for number, text in enumerate(pages):
        shown = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        content = f"BT /F1 12 Tf 40 800 Td ({shown}) Tj ET".encode("latin-1")
        objects += [
            _page(5 + 2 * number),
            b"<< /Length %d >>\nstream\n%b\nendstream" % (len(content), content),
        ]
    return _of_objects(objects)


def pdf_bomb(mebibytes: int, filters: str = "/FlateDecode") -> bytes:
    """A PDF of one page that says `Boom.` after so many MiB of other operators."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(b"q Q " * (1 << 18)) for _ in range(mebibytes))
    packed += packer.compress(b"BT /F1 12 Tf 40 800 Td (Boom.) Tj ET") + packer.flush()
    content = b"<< /Length %d /Filter %b >>\nstream\n%b\nendstream" % (
        len(packed), filters.encode(), packed,
    )  # fmt: skip
    catalog = b"<< /Type /Catalog /Pages 2 0 R >>"
    pages = b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>"
    return _of_objects([catalog, pages, FONT, _page(5), content])


def _page(content: int) -> bytes:
    """A page with its content in the object of this number, and the font in number 3."""
    return (
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R"
        b" /Resources << /Font << /F1 3 0 R >> >> >>" % content
    )


def _of_objects(objects: Sequence[bytes]) -> bytes:
    made = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(made))
        made += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return made + (
        b"xref\n0 %d\n0000000000 65535 f \n%btrailer\n<< /Size %d /Root 1 0 R >>\n"
        b"startxref\n%d\n%%%%EOF\n" % (len(places) + 1, table, len(places) + 1, len(made))
    )


def blank_pdf(pages: int) -> bytes:
    """A PDF of many blank pages, which is small: 125 bytes a page."""
    import pypdfium2  # noqa: PLC0415 (most tests need none)

    document = pypdfium2.PdfDocument.new()
    for _ in range(pages):
        document.new_page(595, 842).close()
    made = io.BytesIO()
    document.save(made)
    document.close()
    return made.getvalue()


def png(width: int, height: int) -> bytes:
    """A PNG of this size by its header; its pixels are not there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG_START + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def image(kind: str, width: int = 10, height: int = 10) -> bytes:
    """A true image: `PNG`, `JPEG`, `GIF` or `WEBP`."""
    from PIL import Image  # noqa: PLC0415

    made = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(made, kind)
    return made.getvalue()


def pdf_block(data: bytes, **more: Any) -> dict[str, Any]:
    """A PDF as the Messages API takes it; `more` are a title, citations, …"""
    return {"type": "document", "source": _source("application/pdf", data), **more}


def image_block(data: bytes, media_type: str = "image/png") -> dict[str, Any]:
    return {"type": "image", "source": _source(media_type, data)}


def text_block(text: str, **more: Any) -> dict[str, Any]:
    """A text as a document of the Messages API."""
    source = {"type": "text", "media_type": "text/plain", "data": text}
    return {"type": "document", "source": source, **more}


def _source(media_type: str, data: bytes) -> dict[str, Any]:
    encoded = base64.b64encode(data).decode()
    return {"type": "base64", "media_type": media_type, "data": encoded}


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b85decode(text))


# One page each, encrypted with RC4. The first opens with the password `b`, the second without any:
# only an owner's password protects it.
LOCKED_PDF = _unpacked(
    "c-n<i&5ImG6ekBSjSv;lqjg!tL$>R)t6GL7{Z-"
    "k`ZrCsr4Kl7!nW^2h^i~huHDOoqj}S2jPaZu5J$Mlz7tekWMf55N;%C5HF20_b-"
    "EEnJed(^>>-T%V-+Qk%Zsz(5*%ZOXufIKh7!ZU}edq09FbKk|o;#075bl=K7L6H%h6h1-!%j<+)+cC;0THp-qzWlcHdP"
    "GKTc<ON!kgyEw!zj`VBNH%qdnUFnRUs;m$h4QqEMH98@YK^0YR6#XHM(6N8!G+SzXPK-4bq5CvSLGBs1Pr^--"
    "@3`;U6(t@AD7%baUXJ)fb$V3oW)h9eZ-YK&`Vrm=2v3Z#JK_Fg%$!)qxpLt%*cv&uu;*7IfpQlh?;PF+t2@9EHG<!u8V"
    "E8}f$C-u|@;huFz{w|WLOKN>%&2cb#>FVPbK6v*1H@5%!{=Ii!{ris}E<Jbsl@~vJ_~g-"
    "dU;Oy;rBDBP>v#K0v%6h>{L`1?Z$5hP%+F6hxIEZ>a{ueSM^C+3XP?~u?DOZP*}2TW`t#dP%8Ga;O7ujfrnMRxgu-oG-"
    "Lt-&m>?`1h%4O@3U8M#acy}91mS3Y$1jX_cFCFRj-lr|>bvg9q1l?CuI_Nr$)=u+tViPzb`GfQ3Dn;?hSsI4ceZ-"
    "(9Q0^qf2d%n+ngMFi3Sl(ahxh1M>r;gs7Mp4wcv$LG0jqj@m7yV^?1Npb2{@ktT$8GB6Mh~)?UnN<c*t}W_ms-LKQ478"
    "VDk>;*>*~I7<?lQxT^{iX~&Y1~j9EphRRuaY3-klUOE#=5fRnk!gy%E}$zc#vE1&F=(tm)?K}6rn^IPad-"
    "{<6&SOkC^AiTN+nAq<{}qb;h1Ay#5_v1#3@!pBup`yG0X|WvDA<$3If$$N3_?1lg1tf7{viTe^4X@6X+0~V+01ah`4i%"
    "V7i7;y#62KWDVmnUc-cvYgi=t8YX#kf%(Rim2DRD8<p=^un`XH+9SHWi97DFMsoSRnlDnTP>#j}TyVh{YzHH$Okj#pBv"
    "caPD3_R~T5bLR9|z0pY8t=jBmpPE#zwKPgMR_9@pg9"
)
OWNED_PDF = _unpacked(
    "c-"
    "n<i&x;&I7`>MVAxA+d7Um$5?fPBSFbwpsN)|V4m`NhI*+XZhc5Usg9;$1WUGX3!hg@?A2%hy658_#b9K?Sh;30TYFo>d"
    "F_Miu=XJ&U>=HOg<>U~}Bd+&W;4{qoBI^O1B@aoq;zXcc~*gW_E42K}fnuYZcgXo=V*1~-nO5+0%-"
    "7>SPOq)}<j{?GDzD*QV3~#GARPUV44UBG=N2Ud%5ioYv(UBhQ-rU$^>Z``CIbozLe-qk8T?c~h>TY?~EIf?%tjU^saco"
    "y`3p;t^izZp=%ep!0wW0q}Z@sa;g=}@_hHDmcI2^7oua40KMt59k+j;4Xot_2KfaK<+nws&AG%$z8q2ez(k4@Vw+%!lL"
    "eJP!~o(|U2p{v>(7d+ObH@TTMGXtVsV~_m%P^#`y>zyf&!7ul%eXAy4oWJ;dbn=6F?M*N^fBf5{54ZMSz8Agx`;XUuci"
    "(S)dhg@s+fRPJ|I;V`yzy7^^x9|7-"
    "7f$7D|fzi_r*8Q9=<yL^6ekLJ9#!uIw@=7wJ6>bm6om1As`stH1&z`)wBdrVS~8J9>M6{$|kn0E&vcs77zT=XlEB+xb7"
    "Hwu0`K<M;^k~7<PTf%OqVhofr@Iqp)*<%AAJ&JI5iqbp6cM&z*xFt?Umq80t1B4_U%tss)M}j$<xWR$!8_L}y%xSgVvJ"
    "86o+o$D?{Y!I?Xo`&-"
    "7Bv#>?*u&i5iHLHm)?W}aO%RynH!s5aqP75hHWmIQ`a*=6CbBz*}CsZL#M8OJ<bdktH=S)zF1dp{;g^p9fa6-"
    "Ej;B^`!7FG$;5UfAeUB6kTyMwzr+zs7$N(!D*E-9r9F_|&J2%`mJnauN)<|t3nBF8ZkX~8&FOrQ*NtWzPgyz6!kl3oO-"
    "&Kv>+V}LGyP;gE;JcO4R4g*_O>?MW~*}w?ee2+4`fw35EU|h)!Oh~qYNhYo^@5-t+ZaKe6^^plSqH)uBNLF9sjy-"
    "IkT>W3q7piqBhx<bm5~7r|g5p#riV-2WN@65(iAbu|=>Ok1SbeUg^UEZ0Z~_K{Vo!sA0pLh^82"
)


# --- Word files, web pages, e-mails ---------------------------------------------------------------

_WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def paragraph(text: str, mark: str = "") -> str:
    """A paragraph of a Word file; with a `mark` its text is in an element of that name (`ins`)."""
    kind = "delText" if mark == "del" else "t"
    run = f'<w:r><w:{kind} xml:space="preserve">{text}</w:{kind}></w:r>'
    marked = f'<w:{mark} w:id="1" w:author="x">{run}</w:{mark}>' if mark else run
    return f"<w:p>{marked}</w:p>"


def table(*rows: Sequence[str]) -> str:
    """A table of a Word file."""
    cells = (
        "".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) for row in rows
    )  # fmt: skip
    return "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in cells) + "</w:tbl>"


def docx(
    body: str, header: str = "", *, doctype: str = "", more: dict[str, bytes] | None = None
) -> bytes:
    """A Word file of these paragraphs and tables; `more` are further files in it."""
    relations = [("rId1", "header", "header1.xml")] if header else []
    files = {
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"/>',
        "_rels/.rels": _relations([("rId1", "officeDocument", "word/document.xml")]),
        "word/_rels/document.xml.rels": _relations(relations),
        "word/document.xml": f"{doctype}<w:document {_WORD}><w:body>{body}</w:body></w:document>",
    }
    if header:
        files["word/header1.xml"] = f"<w:hdr {_WORD}>{header}</w:hdr>"
    return zip_of({**{name: text.encode() for name, text in files.items()}, **(more or {})})


def _relations(relations: Sequence[tuple[str, str, str]]) -> str:
    made = (
        f'<Relationship Id="{name}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for name, kind, target in relations
    )
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{"".join(made)}</Relationships>'


def zip_of(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()


def eml(body: str, kind: str = "plain", attached: str | None = None) -> bytes:
    """An e-mail, with the name of an attachment perhaps."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@b.example", "c@d.example", "Kündigung"
    message.set_content(body, subtype=kind)
    if attached is not None:
        message.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename=attached)
    return bytes(message)
