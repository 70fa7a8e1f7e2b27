"""The languages that `filters.languages` may name: those of the fastText model `lid.176`.

The model itself is in the package's extra `languages`, see `flow.dataset.texts.language`.
"""

from __future__ import annotations

from difflib import get_close_matches

_CODES = """
    af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb
    co cs cv cy da de diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv
    he hi hif hr hsb ht hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb
    lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new
    nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl
    so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf
    yi yo yue zh
"""
CODES = frozenset(_CODES.split())


def problem(code: str) -> str | None:
    """Why a language cannot be filtered by; None: it can."""
    if code in CODES:
        return None
    short = code.lower().replace("_", "-").partition("-")[0]
    close = [short] if short in CODES else get_close_matches(short, CODES, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return (
        f"{code!r} is no language that the model knows; {hint}It takes codes of ISO 639 like en, "
        "de or zh"
    )
