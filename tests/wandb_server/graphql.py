"""A small GraphQL: documents are parsed, and executed on objects with fields."""

from __future__ import annotations

import json
import re
from typing import Any

_TOKEN = re.compile(
    r'''(?P<ws>[\s,\ufeff]+|\#[^\n]*)|(?P<block>"""(?:[^\\]|\\.)*?""")|(?P<str>"(?:[^"\\\n]|\\.)*")'''
    r"""|(?P<spread>\.\.\.)|(?P<float>-?\d+(?:\.\d+)?[eE][+-]?\d+|-?\d+\.\d+)|(?P<int>-?\d+)"""
    r"""|(?P<name>[_A-Za-z]\w*)|(?P<punct>[!$&()\[\]{}:=@|])""",
    re.S,
)


class GraphQLError(Exception):
    pass


class Var(str):
    pass


class Enum(str):
    pass


class _Parser:
    def __init__(self, text: str):
        self.toks: list[tuple[str, str]] = []
        pos = 0
        while pos < len(text):
            m = _TOKEN.match(text, pos)
            if not m:
                raise GraphQLError(f"syntax error at {text[pos : pos + 20]!r}")
            if m.lastgroup != "ws":
                self.toks.append((m.lastgroup or "", m.group()))
            pos = m.end()
        self.i = 0

    def peek(self) -> str | None:
        return self.toks[self.i][1] if self.i < len(self.toks) else None

    def kind(self) -> str | None:
        return self.toks[self.i][0] if self.i < len(self.toks) else None

    def next(self) -> str:
        if self.i >= len(self.toks):
            raise GraphQLError("unexpected end of document")
        self.i += 1
        return self.toks[self.i - 1][1]

    def expect(self, tok: str) -> None:
        got = self.next()
        if got != tok:
            raise GraphQLError(f"expected {tok!r}, got {got!r}")

    def document(self) -> tuple[list[dict], dict[str, dict]]:
        ops, frags = [], {}
        while self.peek() is not None:
            tok = self.peek()
            if tok == "fragment":
                self.next()
                name = self.next()
                self.expect("on")
                cond = self.next()
                self.directives()
                frags[name] = {"on": cond, "sel": self.selection()}
            elif tok == "{":
                ops.append({"op": "query", "name": None, "vars": {}, "sel": self.selection()})
            elif tok in ("query", "mutation", "subscription"):
                op = self.next()
                name = self.next() if self.kind() == "name" else None
                defaults: dict[str, Any] = {}
                if self.peek() == "(":
                    self.next()
                    while self.peek() != ")":
                        self.expect("$")
                        var = self.next()
                        self.expect(":")
                        self.type_()
                        if self.peek() == "=":
                            self.next()
                            defaults[var] = self.value()
                        self.directives()
                    self.next()
                self.directives()
                ops.append({"op": op, "name": name, "vars": defaults, "sel": self.selection()})
            else:
                raise GraphQLError(f"unexpected {tok!r}")
        return ops, frags

    def type_(self) -> None:
        if self.peek() == "[":
            self.next()
            self.type_()
            self.expect("]")
        else:
            self.next()
        if self.peek() == "!":
            self.next()

    def value(self) -> Any:
        kind, tok = self.kind(), self.next()
        if tok == "$":
            return Var(self.next())
        if tok == "[":
            out = []
            while self.peek() != "]":
                out.append(self.value())
            self.next()
            return out
        if tok == "{":
            obj = {}
            while self.peek() != "}":
                key = self.next()
                self.expect(":")
                obj[key] = self.value()
            self.next()
            return obj
        if kind == "str":
            return json.loads(tok)
        if kind == "block":
            return tok[3:-3]
        if kind == "int":
            return int(tok)
        if kind == "float":
            return float(tok)
        if kind == "name":
            return {"true": True, "false": False, "null": None}.get(tok, Enum(tok))
        raise GraphQLError(f"bad value {tok!r}")

    def arguments(self) -> dict[str, Any]:
        args: dict[str, Any] = {}
        if self.peek() == "(":
            self.next()
            while self.peek() != ")":
                name = self.next()
                self.expect(":")
                args[name] = self.value()
            self.next()
        return args

    def directives(self) -> list[tuple[str, dict]]:
        out = []
        while self.peek() == "@":
            self.next()
            name = self.next()
            out.append((name, self.arguments()))
        return out

    def selection(self) -> list[dict]:
        self.expect("{")
        out = []
        while self.peek() != "}":
            if self.peek() == "...":
                self.next()
                if self.peek() == "on" or self.peek() in ("{", "@"):
                    cond = None
                    if self.peek() == "on":
                        self.next()
                        cond = self.next()
                    dirs = self.directives()
                    out.append({"t": "inline", "on": cond, "dirs": dirs, "sel": self.selection()})
                else:
                    name = self.next()
                    out.append({"t": "spread", "name": name, "dirs": self.directives()})
                continue
            name = self.next()
            alias = name
            if self.peek() == ":":
                self.next()
                name = self.next()
            args = self.arguments()
            dirs = self.directives()
            sel = self.selection() if self.peek() == "{" else None
            out.append(
                {"t": "field", "name": name, "alias": alias, "args": args, "dirs": dirs, "sel": sel}
            )
        self.next()
        return out


class Obj:
    """A GraphQL object: data fields in `data`, computed ones as methods f_<field>(**args)."""

    type = "Object"
    ifaces: tuple[str, ...] = ()

    def __init__(self, data: dict | None = None):
        self.data = data or {}

    def has(self, field: str) -> bool:
        return hasattr(self, "f_" + field) or field in self.data

    def get(self, field: str, args: dict) -> Any:
        fn = getattr(self, "f_" + field, None)
        if fn is not None:
            return fn(**args)
        return self.data.get(field)


def T(typename: str, **data: Any) -> Obj:
    o = Obj(data)
    o.type = typename
    return o


_CONCRETE = {"ArtifactSequence", "ArtifactPortfolio", "Run", "User", "Artifact"}


class Executor:
    def __init__(self, unknown: dict[str, int]):
        self.unknown = unknown

    def run(
        self, text: str, op_name: str | None, variables: dict, query: Obj, mutation: Obj
    ) -> tuple[str, dict]:
        ops, frags = _Parser(text).document()
        op = next((o for o in ops if op_name and o["name"] == op_name), ops[0] if ops else None)
        if op is None:
            raise GraphQLError("no operation")
        self.frags = frags
        self.vars = {
            **{k: self._val(v, {}) for k, v in op["vars"].items()},
            **{k: v for k, v in (variables or {}).items() if v is not None or k not in op["vars"]},
        }
        root = mutation if op["op"] == "mutation" else query
        return op["name"] or "anonymous", self._sel(op["sel"], root, op["op"])

    def _val(self, v: Any, variables: dict | None = None) -> Any:
        variables = self.vars if variables is None else variables
        if isinstance(v, Var):
            return variables.get(str(v))
        if isinstance(v, list):
            return [self._val(x, variables) for x in v]
        if isinstance(v, dict):
            return {k: self._val(x, variables) for k, x in v.items()}
        return str(v) if isinstance(v, Enum) else v

    def _keep(self, dirs: list) -> bool:
        for name, args in dirs:
            cond = self._val(args.get("if"))
            if (name == "include" and not cond) or (name == "skip" and cond):
                return False
        return True

    def _applies(self, cond: str | None, obj: Obj) -> bool:
        return cond is None or cond == obj.type or cond in obj.ifaces or cond not in _CONCRETE

    def _sel(self, sel: list, obj: Obj, path: str) -> dict:
        out: dict[str, Any] = {}
        for node in sel:
            if not self._keep(node["dirs"]):
                continue
            if node["t"] == "spread":
                frag = self.frags.get(node["name"])
                if frag is None:
                    raise GraphQLError(f"unknown fragment {node['name']}")
                if self._applies(frag["on"], obj):
                    _merge(out, self._sel(frag["sel"], obj, path))
            elif node["t"] == "inline":
                if self._applies(node["on"], obj):
                    _merge(out, self._sel(node["sel"], obj, path))
            else:
                _merge(out, {node["alias"]: self._field(node, obj, path)})
        return out

    def _field(self, node: dict, obj: Obj, path: str) -> Any:
        name = node["name"]
        if name == "__typename":
            return obj.type
        where = f"{obj.type}.{name}"
        if not obj.has(name):
            self.unknown[where] = self.unknown.get(where, 0) + 1
            return None
        args = {k: self._val(v) for k, v in node["args"].items()}
        return self._complete(obj.get(name, args), node, f"{path}.{name}")

    def _complete(self, val: Any, node: dict, path: str) -> Any:
        if isinstance(val, list):
            return [self._complete(v, node, path) for v in val]
        if node["sel"] is None:
            return None if isinstance(val, Obj) else val
        if isinstance(val, dict):
            val = Obj(val)
        return self._sel(node["sel"], val, path) if isinstance(val, Obj) else None


def _merge(a: dict, b: dict) -> None:
    for k, v in b.items():
        if isinstance(v, dict) and isinstance(a.get(k), dict):
            _merge(a[k], v)
        else:
            a[k] = v
