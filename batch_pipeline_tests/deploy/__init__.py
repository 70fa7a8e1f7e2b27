"""The files for containers, checked by what reads them, since neither Docker nor helm runs here."""
