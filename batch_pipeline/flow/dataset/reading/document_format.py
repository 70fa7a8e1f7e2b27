"""The row of a file that is a document: a PDF, an image, a Word file, a web page, an e-mail.

Nothing of the file is read here: `documents.resolve` looks at it, where the row is wanted.
"""

from __future__ import annotations

from batch_pipeline.flow.dataset.reading.columns import Wanted
from batch_pipeline.flow.dataset.reading.files import SourceFile
from batch_pipeline.flow.dataset.reading.row_json import JsonRow, row_of_cells
from batch_pipeline.jobs.prompts.template import DOCUMENT

# The text that is taken out of a file; the column of a txt or md file has the same name.
TEXT = "text"


def row_of_file(file: SourceFile, wanted: Wanted) -> JsonRow:
    """The one row of a file. Its document, and the text that is taken out of it, are put into the
    row once they are known."""
    wanted.check(file.path, ("id", DOCUMENT, TEXT))
    return row_of_cells({"id": file.relative_path, DOCUMENT: None})
