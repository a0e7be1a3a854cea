"""What every drawing of a page must hold."""

import re
import xml.etree.ElementTree as ET


def check_sound(figure):
    """Sound XML, finite numbers, words and marks inside the frame, wide and narrow."""
    for board in (figure.wide, figure.narrow):
        root = ET.fromstring(board.standalone(""))
        assert not re.search(r"\b(nan|inf)\b", board.markup())
        for text in root.iter("{http://www.w3.org/2000/svg}text"):
            assert 0 <= float(text.get("x")) <= board.width, (figure.key, text.text)
            assert 0 <= float(text.get("y")) <= board.height, (figure.key, text.text)
        for mark in marks(root):
            x, y = re.match(r"translate\((\S+) (\S+)\)", mark.get("transform", "translate(1 1)")).groups()
            assert 0 <= float(x) <= board.width and 0 <= float(y) <= board.height, (figure.key, mark.attrib)


def marks(root):
    """The marks of a drawing."""
    return [element for element in root.iter() if "mark" in (element.get("class") or "").split()]
