"""The text of Word files, web pages and e-mails.

Runs in the process of `inspect_process`, as these are strangers' files. Nothing is fetched and no
script is run. Tables, headers and tracked insertions are part of the text; deletions are not.
"""

from __future__ import annotations

import email
import email.policy
import html
import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from batch_pipeline.flow.dataset.documents.inspection.content_kinds import ARCHIVE
from batch_pipeline.flow.dataset.documents.inspection.inspect_types import Facts, Refused, Want

_DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
# A Word file that unpacks to more is a bomb, or a film.
MOST_UNPACKED_BYTES = 200_000_000
_MOST_MEMBERS = 10_000
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_COMPATIBILITY = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
# What is not in the document as it is read now, or stands there a second time for old readers.
_LEFT_OUT = (f"{_WORD}del", f"{_WORD}moveFrom", f"{_COMPATIBILITY}Fallback")
_ROOT = re.compile(rb"(<[A-Za-z_][\w:.-]*)")
_RELATIONS = b'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
# What docx2python writes for what is no text, each in a run of its own.
_MARKS = (
    (re.compile(r'<a href="[^"]*">(.*)</a>', re.DOTALL), r"\1"),
    (re.compile(r"----(footnote|endnote)(\d+)----"), r"[\1 \2]"),
    (re.compile(r"(footnote|endnote)(\d+)\)\t"), r"[\1 \2] "),
    (re.compile(r"----Image alt text---->(.*)<", re.DOTALL), r"[image: \1]"),
    (re.compile(r"----[^\n]*----"), ""),
    (re.compile(r"<latex>(.*)</latex>", re.DOTALL), r"\1"),
)
_SYMBOL = re.compile(r"<span style=font-family:[^>]*>(&#x[0-9A-Fa-f]+;)</span>")
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_MARKUP_BYTES = 4_096
_BLANK_LINES = re.compile(r"\n\s*\n\s*\n+")
_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def facts_of_zip(want: Want) -> Facts:
    """A Word file, or what else is in a ZIP archive: that is refused."""
    try:
        with zipfile.ZipFile(want.path) as archive:
            members = archive.infolist()
            names = {member.filename for member in members}
            size = sum(member.file_size for member in members)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _no_docx(want, str(error)) from None
    if "word/document.xml" not in names and "[Content_Types].xml" not in names:
        raise _no_docx(want, "it has no document")
    if size > MOST_UNPACKED_BYTES or len(members) > _MOST_MEMBERS:
        raise Refused(
            "damaged .docx",
            f"{MOST_UNPACKED_BYTES // 1_000_000} MB and {_MOST_MEMBERS:,} files unpacked at most; "
            f"it has {size / 1e6:,.0f} MB and {len(members):,}",
        )
    return _facts(want, _DOCX, "docx", _docx_text(want))


def _no_docx(want: Want, words: str) -> Refused:
    """What a ZIP archive is refused for: by its name it may claim to be something else."""
    if want.name.lower().endswith(".docx"):
        return Refused("damaged .docx", words)
    return Refused(ARCHIVE, f"{want.name} is a ZIP archive by its content")


def _docx_text(want: Want) -> str:
    try:
        try:
            parts = _docx_parts(want, want.path)
        except KeyError:
            parts = _docx_parts(want, _with_namespace(want.path))
    except Refused:
        raise
    except RecursionError:
        raise Refused("damaged .docx", "nested too deeply") from None
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # of lxml, zipfile, and docx2python's own guesses
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise _no_docx(want, words) from None
    return "\n\n".join("\n".join(part) for part in parts if part)


def _docx_parts(want: Want, file: str | io.BytesIO) -> list[list[str]]:
    """The lines of headers, body, footers, notes and comments."""
    from docx2python import docx2python  # noqa: PLC0415  # of an extra
    from docx2python.depth_collector import get_par_strings  # noqa: PLC0415

    with docx2python(file, duplicate_merged_cells=False) as content:
        reader = content.docx_reader
        for part in reader.content_files():
            _leave_out(part.root_element)
        if not reader.files_of_type("officeDocument"):
            raise _no_docx(want, "it has no document")
        return [
            _unique(_tables(get_par_strings(content.header_pars))),
            _tables(get_par_strings(content.body_pars)),
            _unique(_tables(get_par_strings(content.footer_pars))),
            _tables(get_par_strings(content.footnotes_pars)),
            _tables(get_par_strings(content.endnotes_pars)),
            [_comment(each) for each in reader.comments],
        ]


def _with_namespace(path: str) -> io.BytesIO:
    """The file with the namespace of relations declared in each part: docx2python looks for it
    there, and a part without links may do without."""
    made = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(made, "w") as to:
        for member in archive.infolist():
            if member.filename.endswith((".xml", ".rels")):
                data = archive.read(member)
                if b"xmlns:r=" not in data:
                    data = _ROOT.sub(rb"\1 " + _RELATIONS, data, count=1)
                to.writestr(member.filename, data)
    made.seek(0)
    return made


def _leave_out(root: Any) -> None:
    for element in list(root.iter(*_LEFT_OUT)):
        parent = element.getparent()
        if parent is not None:
            parent.remove(element)


def _unique(lines: Iterable[str]) -> list[str]:
    """Each header once: the first page and even pages have headers of their own."""
    return list(dict.fromkeys(lines))


def _tables(tables: Any) -> list[str]:
    """Lines of text; a row of a table is one, with its cells between bars."""
    return [line for table in tables for row in table for line in _row_lines(row)]


def _row_lines(row: Any) -> Iterator[str]:
    cells = [["".join(map(_plain, runs)) for runs in cell] for cell in row]
    if len(cells) > 1:
        yield " | ".join(" ".join(filter(None, map(str.strip, cell))) for cell in cells)
    else:
        yield from (line for cell in cells for line in cell)


def _plain(run: str) -> str:
    """A run without docx2python's own marks."""
    if _SYMBOL.search(run):
        run = _SYMBOL.sub(lambda found: html.unescape(found[1]), run)
    for mark, instead in _MARKS:
        found = mark.fullmatch(run)
        if found is not None:
            return found.expand(instead)
    return run


def _comment(element: Any) -> str:
    text = " ".join("".join(each.itertext()) for each in element.iter(f"{_WORD}p"))
    return f"[comment by {element.get(f'{_WORD}author') or 'unknown'}] {text}"


# --- web pages -----------------------------------------------------------------------------------


def facts_of_html(want: Want) -> Facts:
    """A web page; Refused where nothing of it is shown."""
    return _facts(want, "text/html", "html", html_text(_decoded(Path(want.path).read_bytes())))


def html_text(page: str) -> str:
    """What a page shows: without scripts, styles, comments and hidden elements."""
    from inscriptis import get_text  # noqa: PLC0415  # of an extra

    try:
        text: str = get_text(page)
    except RecursionError:
        raise Refused("damaged .html", "nested too deeply") from None
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # of lxml and inscriptis
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise Refused("damaged .html", words) from None
    return text


def _decoded(data: bytes) -> str:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    declared = _CHARSET.search(data[:_MARKUP_BYTES])
    for encoding in (declared[1].decode() if declared else "utf-8", "utf-8"):
        try:
            return data.decode(encoding)
        except (LookupError, UnicodeDecodeError):
            continue
    # What browsers take for latin-1.
    return data.decode("cp1252", "replace")


# --- e-mails -------------------------------------------------------------------------------------


def facts_of_email(want: Want) -> Facts:
    """An e-mail: its main headers, its body, and the names of what is attached."""
    try:
        message = email.message_from_bytes(
            Path(want.path).read_bytes(), policy=email.policy.default
        )
        assert isinstance(message, EmailMessage)
        text = _email_text(message)
    except RecursionError:
        raise Refused("damaged .eml", "nested too deeply") from None
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise Refused("damaged .eml", words) from None
    return _facts(want, "message/rfc822", "eml", text)


def _email_text(message: EmailMessage) -> str:
    body = message.get_body(("plain", "html"))
    shown = ""
    if body is not None:
        shown = str(body.get_content())
        if body.get_content_subtype() == "html":
            shown = html_text(shown)
    attached = [part.get_filename() or part.get_content_type() for part in _attachments(message)]
    if not shown.strip() and not attached:
        return ""
    lines = [f"{name}: {message[name]}" for name in _HEADERS if message[name]]
    if attached:
        shown += f"\n\nAttachments (not read): {', '.join(attached)}"
    return "\n".join(lines) + "\n\n" + shown


def _attachments(message: EmailMessage) -> Iterator[Any]:
    if message.get_content_maintype() == "multipart":
        yield from message.iter_attachments()


def _facts(want: Want, media_type: str, extractor: str, text: str) -> Facts:
    text = _BLANK_LINES.sub("\n\n", text.replace("\r\n", "\n").replace("\x00", "")).strip()
    # Bytes that are no text are kept as surrogates by the email package, and UTF-8 lacks these.
    text = text.encode(errors="replace").decode()
    if not text:
        raise Refused("no text", f"nothing in {want.name} is text that is shown")
    return Facts(media_type, text=text, text_bytes=len(text.encode()), extractor=extractor)
