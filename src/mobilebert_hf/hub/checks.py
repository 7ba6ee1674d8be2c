"""What is checked before anything is uploaded: names of licence and language, and that files give nothing away."""

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

# The Hub's identifiers of licences, https://huggingface.co/docs/hub/repositories-licenses.
LICENSES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
    etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 h-research
    intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c
    mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql
    unknown unlicense wtfpl zlib
    """.split()  # noqa: SIM905
)
# ISO 639-1. Codes of three letters are those of ISO 639-3, of which there are 8,000.
LANGUAGES = frozenset(
    """
    aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en
    eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja
    jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb
    nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq
    sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
    """.split()  # noqa: SIM905
)
SECRET = re.compile(r"\b(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|sk-[A-Za-z0-9_-]{32,}|AKIA[0-9A-Z]{16})\b")
SCANNED_SUFFIXES = (".json", ".yaml", ".yml", ".md", ".py")


def check_names(license: str | None, language: str | None) -> None:
    """Checks the fields of a card.

    Raises:
        ValueError: The Hub does not know the licence or the language.
    """
    if license is not None and license not in LICENSES:
        near = license.lower().replace(" ", "-")
        advice = f"use {near}" if near in LICENSES else "use an identifier such as apache-2.0 or mit, or other"
        raise ValueError(f"license={license!r} is no identifier of the Hub: {advice}.")
    if language is None or language in (*LANGUAGES, "multilingual", "code") or re.fullmatch(r"[a-z]{3}", language):
        return
    raise ValueError(
        f"language={language!r} is no code of ISO 639: use one such as en, de or yue, or multilingual for several."
    )


def check_contents(files: Mapping[str, Path], folder: Path) -> None:
    """Checks that weights are complete, and that no text file has a local path or a token.

    Args:
        files: Files by path in the repository.
        folder: The local folder of the model.

    Raises:
        ValueError: A file of weights is damaged, or a file has a local path or a token; names file and line. Tokens
            are not shown.
    """
    local = [f"{path}/" for path in {folder.resolve(), Path.home()} if path != Path(path.anchor)]
    for name, path in sorted(files.items()):
        if path.suffix == ".safetensors":
            _check_weights(name, path)
        if path.suffix not in SCANNED_SUFFIXES or name.endswith("tokenizer.json"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if SECRET.search(line):
                raise ValueError(f"{name}, line {number} has what looks like an access token: remove and revoke it.")
            if found := next((prefix for prefix in local if prefix in line), None):
                raise ValueError(f"{name}, line {number} has the local path {found}: remove it.")


def _check_weights(name: str, path: Path) -> None:
    try:
        with safe_open(path, "pt"):  # reads the header, and checks the length of the file
            pass
    except SafetensorError as error:
        raise ValueError(f"{name} is damaged ({error}): save or download it again.") from error
