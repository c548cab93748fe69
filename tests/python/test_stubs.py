# SPDX-License-Identifier: Apache-2.0
"""The stub of the extension module names what is in it, and every public name is explained."""

import ast
import inspect
import unittest
from pathlib import Path

import neoxref
from neoxref import _core


def public(names):
    return {name for name in names if not name.startswith("_")}


class Stubs(unittest.TestCase):
    def test_stub_is_complete(self):
        stub = ast.parse((Path(neoxref.__file__).parent / "_core.pyi").read_text(encoding="utf-8"))
        classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
        functions = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
        constants = {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
        self.assertEqual(set(classes) | functions | constants, public(dir(_core)))
        for name, node in classes.items():
            if issubclass(getattr(_core, name), Exception):
                continue
            members = {part.name if isinstance(part, ast.FunctionDef) else part.target.id
                       for part in node.body if isinstance(part, (ast.FunctionDef, ast.AnnAssign))}
            ours = public(dir(getattr(_core, name))) - {"name", "value"}  # of every enumeration
            self.assertEqual(public(members), ours, name)

    def test_everything_public_is_explained(self):
        for name in neoxref.__all__:
            thing = getattr(neoxref, name)
            if not callable(thing):
                continue
            self.assertTrue(inspect.getdoc(thing), name)
            if not inspect.isclass(thing) or issubclass(thing, Exception):
                continue
            for member, value in vars(thing).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                    self.assertTrue(inspect.getdoc(value), f"{name}.{member}")


if __name__ == "__main__":
    unittest.main()
