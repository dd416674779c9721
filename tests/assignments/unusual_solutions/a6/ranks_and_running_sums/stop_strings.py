"""The text held back is searched again together with each piece, by the methods of strings."""


class StopStringFilter:
    def __init__(self, stop):
        if isinstance(stop, str) or not all(stop):
            raise ValueError(f"not a list of strings with characters: {stop!r}")
        self.stops, self.waiting, self.stopped_by = tuple(stop), "", None

    def push(self, piece):
        if self.stopped_by:
            return ""
        text = self.waiting + piece
        found = [(text.find(stop) + len(stop), i) for i, stop in enumerate(self.stops)]
        ends = [(end, i) for end, i in found if self.stops[i] in text[:end]]
        if ends:
            end, i = min(ends)
            self.stopped_by, self.waiting = self.stops[i], ""
            return text[: end - len(self.stopped_by)]
        certain = len(text) - max((held_back(text, stop) for stop in self.stops), default=0)
        self.waiting = text[certain:]
        return text[:certain]

    def finish(self):
        waiting, self.waiting = self.waiting, ""
        return waiting


def held_back(text, stop):
    """How many characters `stop` begins with the text ends with."""
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
