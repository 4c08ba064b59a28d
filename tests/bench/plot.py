# SPDX-License-Identifier: Apache-2.0
"""Line plots as SVG, for the pages in docs/: no library, the same bytes for the same numbers."""

COLOURS = ['#1f77b4', '#d62728', '#2ca02c', '#9467bd', '#8c564b']
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 320, 60, 20, 30, 40


def lines(series, ticks, caption, marks=True):
    """series: {name: [(x, y), ...]}; ticks: [(x, text), ...] of the axis below; caption stands below that."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    first, last = min(xs), max(xs)
    low, high = min(ys), max(ys)
    margin = 0.05 * (high - low) or 0.05
    low, high = low - margin, high + margin

    def at(x, y):
        across = (x - first) / (last - first) if last > first else 0.5
        return LEFT + (WIDTH - LEFT - RIGHT) * across, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (y - low) / (high - low)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">' % (WIDTH, HEIGHT),
           '<rect width="100%" height="100%" fill="white"/>']
    for i in range(5):
        value = low + (high - low) * i / 4
        y = at(first, value)[1]
        out.append('<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%.2f</text>'
                   % (LEFT, y, WIDTH - RIGHT, LEFT - 6, y + 4, value))
    for x, text in ticks:
        out.append('<text x="%.1f" y="%d" text-anchor="middle">%s</text>' % (at(x, low)[0], HEIGHT - BOTTOM + 16, text))
    for i, (name, points) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        places = [at(*point) for point in points]
        out.append('<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>'
                   % (' '.join('%.1f,%.1f' % place for place in places), colour))
        if marks:
            out += ['<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>' % (*place, colour) for place in places]
        out.append('<text x="%d" y="%d" fill="%s">%s</text>' % (LEFT + 8, 24 + 16 * i, colour, name))
    out.append('<text x="%d" y="%d" text-anchor="middle">%s</text></svg>' % (WIDTH / 2, HEIGHT - 6, caption))
    return '\n'.join(out) + '\n'
