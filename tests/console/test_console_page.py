"""What the console's page is made of: nothing in it makes markup, runs text or asks elsewhere."""

from __future__ import annotations

import re
from typing import Final

import pytest

from engine.integrations.console.app import STATIC, TYPES

FILES: Final = sorted(path for path in STATIC.iterdir())
MARKUP: Final = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|"
    r"srcdoc|\beval\b|new Function|setHTML|javascript:|\.setAttribute\(\"on"
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_of_the_page_makes_markup_of_text(path: object) -> None:
    text = STATIC.joinpath(str(path)).read_text()

    assert not MARKUP.findall(text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_of_the_page_names_an_address_elsewhere(path: object) -> None:
    text = STATIC.joinpath(str(path)).read_text()

    assert not re.findall(r"https?://|//[a-z]+\.|@import|url\(", text)


def test_the_page_has_no_script_and_no_style_of_its_own() -> None:
    page = (STATIC / "index.html").read_text()

    assert not re.findall(r"<style|\sstyle=|\son\w+=|<script(?! type=\"module\" src=)", page)


def test_every_file_of_the_page_is_one_that_is_sent() -> None:
    assert {path.suffix for path in FILES} == set(TYPES)
