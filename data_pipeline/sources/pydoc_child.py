"""Render modules with pydoc in a child process: `python -S -P pydoc_child.py FOLDER SECONDS
MODULE...`

Importing a module can print, warn, wait for input, open a browser, end the interpreter or never
return. All of that happens here and not in the parent. The output of a module is discarded, and a
watchdog in C ends the process when one module takes longer than SECONDS, even while the module
holds the interpreter lock. The script writes `MODULE.html` for a page into FOLDER, or
`MODULE.failed` with the reason in one line. A module that ended the process leaves neither file,
which tells the parent.

The script is started as a file and imports no other file of this project. It removes text that
differs between machines: object addresses, file links, and values that contain a path of the
installation.
"""

import faulthandler
import importlib
import os
import pydoc
import re
import sys
import sysconfig
import tempfile
import warnings
from pathlib import Path

OBJECT_ADDRESS = re.compile(r"(?: |&nbsp;)(?:at(?: |&nbsp;)0x|handle(?: |&nbsp;))[0-9A-Fa-f]+")
CLASS_SIGNATURE = re.compile(r'^<td class="decor title-decor" colspan=2>.*$', re.MULTILINE)


def installation_paths() -> list[str]:
    """Return every folder that depends on where Python or the user's home is, longest first."""
    paths = {
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        sys.executable,
        sys.argv[0],
        str(Path.cwd()),
    }
    paths |= {
        *sysconfig.get_paths().values(),
        *sys.path,
        str(Path.home()),
        tempfile.gettempdir(),
    }
    return sorted((path for path in paths if len(path) > 1), key=len, reverse=True)


class PortableHTMLDoc(pydoc.HTMLDoc):
    """pydoc's own renderer, without the details that differ between machines."""

    def __init__(self) -> None:
        super().__init__()
        self.machine_paths = installation_paths()

    def filelink(self, url: str, path: str) -> str:
        return ""

    def docother(
        self, object: object, name: str | None = None, mod: str | None = None, *ignored: object
    ) -> str:
        value = repr(object)
        if any(path in value for path in self.machine_paths):
            return f"<dl><dt><strong>{name}</strong></dt></dl>\n"
        return super().docother(object, name, mod, *ignored)

    def page(self, title: str, contents: str) -> str:
        html = OBJECT_ADDRESS.sub("", super().page(title, contents))
        # pydoc escapes a class's signature twice: `&amp;lt;function f&amp;gt;`
        html = CLASS_SIGNATURE.sub(lambda line: re.sub("&amp;(lt|gt|amp);", r"&\1;", line[0]), html)
        for path in self.machine_paths:
            html = html.replace(path, "")
        return html


def render(module_name: str, renderer: PortableHTMLDoc) -> str:
    """Return the HTML page of one module; any error from importing it is raised."""
    module = importlib.import_module(module_name)
    return renderer.page(f"module {module_name}", renderer.document(module, module_name))


def main(folder: str, seconds: str, module_names: list[str]) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # file descriptors 1 and 2, so that C code is silent as well
    watchdog_output = os.fdopen(os.dup(2), "w")  # only the watchdog still reaches the parent
    os.dup2(silence, 2)
    warnings.simplefilter("ignore")
    renderer = PortableHTMLDoc()
    for module_name in module_names:
        faulthandler.dump_traceback_later(float(seconds), exit=True, file=watchdog_output)
        try:
            html = render(module_name, renderer)
            unfinished = Path(folder, f"{module_name}.unfinished")
            unfinished.write_text(html, "utf-8", "backslashreplace", "\n")
            unfinished.rename(Path(folder, f"{module_name}.html"))  # whole or not at all
        except BaseException as error:  # sys.exit raises SystemExit, not an Exception
            Path(folder, f"{module_name}.failed").write_text(type(error).__name__)
        faulthandler.cancel_dump_traceback_later()
    os._exit(0)  # skips threads and exit handlers of the imported modules


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
