"""What was measured, as a table in Markdown, and a chart of bars."""

import statistics

WIDTH = 40


def median(values):
    return statistics.median(values)


def middle(values, form="{:.2f}"):
    """Median and quartiles."""
    low, half, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3
    return f"{form.format(half)} ({form.format(low)}-{form.format(high)})"


class Table:
    def __init__(self):
        self.rows, self.bars, self.missed, self.kept = [], {}, [], 0

    def add(self, measure, figure, goal="", kept=None):
        """A row; `kept`: whether the figure is what the goal wants; `None`: it wants nothing."""
        self.rows.append(f"| {measure} | {figure} | {goal} | {'' if kept is None else 'kept' if kept else 'MISSED'} |")
        if kept:
            self.kept += 1
        elif kept is not None:
            self.missed.append(measure)

    def at_most(self, measure, values, goal, note=""):
        """A row of a figure that was measured several times, of which the median counts, as it is shown; `goal` may be
        `None`."""
        wanted, kept = ("", None) if goal is None else (f"<= {goal:.2f}", round(median(values), 2) <= goal)
        self.add(measure, middle(values) + note, wanted, kept)

    def at_least(self, measure, values, goal, note=""):
        self.add(measure, middle(values) + note, f">= {goal:.2f}", round(median(values), 2) >= goal)

    def against(self, measure, ours, theirs, name, form="{:.2f}"):
        """A row of a figure that is to be no worse than somebody else's."""
        figure = f"{middle(ours, form)}; {name} {middle(theirs, form)}"
        self.add(measure, figure, f"<= {name}'s", median(ours) <= median(theirs))

    def bar(self, title, name, value):
        self.bars.setdefault(title, {})[name] = value

    def show(self):
        print("| measure | figure: median (quartiles) | goal | |\n|---|---|---|---|")
        print("\n".join(self.rows))
        for title, bars in self.bars.items():
            print(f"\n{title}")
            longest = max(bars.values())
            for name, value in bars.items():
                print(f"  {name:20} {'█' * max(1, round(value / longest * WIDTH))} {value:.1f}")
        print(f"\n{self.kept} goals kept, {len(self.missed)} missed" + "".join(f"\n  missed: {measure}" for measure in self.missed))
