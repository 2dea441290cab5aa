"""What was measured, as a table in Markdown, and a chart of bars."""

import statistics

WIDTH = 40


def median(values):
    return statistics.median(values)


def middle(values, form="{:.2f}"):
    """Median and quartiles."""
    low, half, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{form.format(half)} ({form.format(low)}-{form.format(high)})"


class Table:
    def __init__(self):
        self.rows, self.bars, self.missed = [], {}, 0

    def add(self, measure, figure, goal="", kept=None):
        """A row; `kept`: whether the figure is what the goal wants; `None`: it wants nothing."""
        self.missed += kept is False
        verdict = {True: "kept", False: "MISSED", None: ""}[kept]
        self.rows.append(f"| {measure} | {figure} | {goal} | {verdict} |")

    def at_most(self, measure, values, goal, form="{:.2f}", note=""):
        """A row of a figure that was measured several times, of which the median counts."""
        self.add(measure, middle(values, form) + note, f"<= {form.format(goal)}", median(values) <= goal)

    def bar(self, title, name, value):
        self.bars.setdefault(title, {})[name] = value

    def show(self):
        print("| measure | figure (quartiles) | goal | |\n|---|---|---|---|")
        print("\n".join(self.rows))
        for title, bars in self.bars.items():
            print(f"\n{title}")
            longest = max(bars.values())
            for name, value in bars.items():
                print(f"  {name:12} {'█' * max(1, round(value / longest * WIDTH))} {value:.1f}")
