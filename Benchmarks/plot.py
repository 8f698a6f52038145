"""Draws the results as an SVG: one row a benchmark, its ratio on a logarithmic axis from parity, and the stored bar as a tick."""
import math
from html import escape

ROW, TEXT, WIDTH, TOP = 20, 420, 520, 46


def ratios(rows):
    """The SVG of every row that has a ratio."""
    shown = [r for r in rows if r["ratio"]]
    limits = [r["ratio"] for r in shown] + [r["bar"]["ratio"] for r in shown if r["bar"] and "ratio" in r["bar"]] + [0.5, 2]
    low, high = math.log10(min(limits)), math.log10(max(limits))
    x = lambda value: TEXT + (math.log10(value) - low) / (high - low) * WIDTH
    height = TOP + ROW * len(shown) + 10
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{TEXT + WIDTH + 90}" height="{height}" font-family="sans-serif" font-size="12">',
             '<rect width="100%" height="100%" fill="white"/>',
             '<text x="10" y="18" font-size="14">Native over guest: right of the line the guest is better; the tick is the bar</text>']
    decade = math.floor(low)
    while decade <= high:
        for digit in (1, 2, 5):
            value = digit * 10**decade
            if low <= math.log10(value) <= high:
                color = "#444" if value == 1 else "#ddd"
                parts.append(f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP - 6}" y2="{height}" stroke="{color}"/>')
                parts.append(f'<text x="{x(value):.1f}" y="{TOP - 10}" text-anchor="middle" fill="#666">{value:g}</text>')
        decade += 1
    for number, row in enumerate(shown):
        y = TOP + ROW * number
        bar = (row["bar"] or {}).get("ratio")
        missed = bar is not None and row["ratio"] < bar
        left, right = sorted((x(1), x(row["ratio"])))
        color = "#c33" if missed else "#4a7" if row["ratio"] >= 1 else "#999"
        parts.append(f'<text x="{TEXT - 8}" y="{y + 14}" text-anchor="end">{escape(row["name"])}</text>')
        parts.append(f'<rect x="{left:.1f}" y="{y + 4}" width="{max(right - left, 1):.1f}" height="{ROW - 8}" fill="{color}"/>')
        if bar is not None:
            parts.append(f'<line x1="{x(bar):.1f}" x2="{x(bar):.1f}" y1="{y + 1}" y2="{y + ROW - 1}" stroke="black" stroke-width="2"/>')
        parts.append(f'<text x="{max(right, x(1)) + 5:.1f}" y="{y + 14}" fill="#333">{row["ratio"]:.2f}</text>')
    return "\n".join(parts) + "\n</svg>\n"
