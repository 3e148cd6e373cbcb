"""Which beginnings of text were seen, in bounded memory: a radix tree over characters.

An edge carries a piece of text, so a conversation's turn costs one node, and a long prompt is
compared piece by piece instead of character by character. What was used longest ago goes first,
from the leaves inwards, as in an engine's own prefix cache: what is left is always whole from
the root on.
"""

from __future__ import annotations

from heapq import heappop, heappush


class _Node:
    __slots__ = ("children", "label", "parent", "queued", "used")

    def __init__(self, label: str, parent: _Node | None, used: int) -> None:
        self.label = label
        self.parent = parent
        self.used = used
        self.children: dict[str, _Node] = {}
        self.queued = False


class RadixTree:
    """At most `max_nodes` nodes and `max_characters` characters of text."""

    def __init__(self, max_nodes: int = 8192, max_characters: int = 2**22) -> None:
        self._max_nodes = max_nodes
        self._max_characters = max_characters
        self._root = _Node("", None, 0)
        self._tick = 0
        self._leaves: list[tuple[int, int, _Node]] = []
        self._pushed = 0
        self.nodes = 0
        self.characters = 0

    def match(self, text: str) -> int:
        """How many characters of the beginning of `text` were seen and are still remembered."""
        node, at = self._root, 0
        while at < len(text):
            child = node.children.get(text[at])
            if child is None:
                break
            if not text.startswith(child.label, at):
                return at + _common(child.label, text, at)
            node, at = child, at + len(child.label)
        return at

    def insert(self, text: str) -> None:
        """Remember `text`; its beginning too is used anew."""
        self._tick += 1
        node, at = self._root, 0
        while at < len(text):
            child = node.children.get(text[at])
            if child is None:
                child = self._add(text[at:], node)
            elif not text.startswith(child.label, at):
                child = self._split(child, _common(child.label, text, at))
            child.used = self._tick
            node, at = child, at + len(child.label)
        while self.nodes > self._max_nodes or self.characters > self._max_characters:
            self._evict()

    def _add(self, label: str, parent: _Node) -> _Node:
        child = _Node(label, parent, self._tick)
        parent.children[label[0]] = child
        self.nodes += 1
        self.characters += len(label)
        self._queue(child)
        return child

    def _split(self, node: _Node, at: int) -> _Node:
        """Cut an edge in two; the upper one."""
        parent = node.parent
        assert parent is not None
        upper = _Node(node.label[:at], parent, node.used)
        parent.children[upper.label[0]] = upper
        node.label, node.parent = node.label[at:], upper
        upper.children[node.label[0]] = node
        self.nodes += 1
        return upper

    def _queue(self, node: _Node) -> None:
        if not node.queued:
            node.queued = True
            self._pushed += 1
            heappush(self._leaves, (node.used, self._pushed, node))

    def _evict(self) -> None:
        """Drop the leaf that was used longest ago. Entries of the heap may be out of date: one
        that was used since is queued again, one that is no leaf waits until it is."""
        while True:
            used, _, node = heappop(self._leaves)
            node.queued = False
            if node.children:
                continue
            if node.used != used:
                self._queue(node)
                continue
            parent = node.parent
            assert parent is not None
            del parent.children[node.label[0]]
            self.nodes -= 1
            self.characters -= len(node.label)
            if not parent.children and parent is not self._root:
                self._queue(parent)
            return


def _common(label: str, text: str, at: int) -> int:
    """How many characters of `label` stand in `text` from `at` on, by halving."""
    low, high = 0, min(len(label), len(text) - at)
    while low < high:
        middle = (low + high + 1) // 2
        if text.startswith(label[low:middle], at + low):
            low = middle
        else:
            high = middle - 1
    return low
