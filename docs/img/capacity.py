#!/usr/bin/env python3
"""Draws the probes of `autotune capacity --json` (stdin) as an SVG (stdout): rate over time, a bar a probe."""
import json
import sys

found = json.load(sys.stdin)
probes = [p for p in found["probes"] if p["offered_rps"] > 0]
width, height, left, bottom, top = 860, 360, 60, 40, 30
end = max(p["started_s"] + p["seconds"] for p in probes) * 1.02
most = max(p["offered_rps"] for p in probes) * 1.1
colours = {"meets": "#2e7d32", "violates": "#c62828", "void": "#9e9e9e"}


def x(seconds):
    return left + (width - left - 20) * seconds / end


def y(rate):
    return height - bottom - (height - bottom - top) * rate / most


out = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
    f'<rect width="{width}" height="{height}" fill="#fff"/>',
]
step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000) if most / s <= 8)
for i in range(int(most // step) + 1):
    out.append(f'<path d="M{left} {y(i * step):.1f}H{width - 20}" stroke="#e5e5e5"/>')
    out.append(f'<text x="{left - 6}" y="{y(i * step) + 4:.1f}" text-anchor="end" fill="#444">{i * step}</text>')
for s in range(0, int(end) + 1, 10):
    out.append(f'<text x="{x(s):.1f}" y="{height - bottom + 16}" text-anchor="middle" fill="#444">{s} s</text>')
out.append(f'<text x="{left}" y="18" fill="#222">offered rate (bar) and goodput (line), requests per second</text>')
for p in probes:
    a, b = x(p["started_s"]), x(p["started_s"] + p["seconds"])
    colour = colours[p["verdict"]]
    out.append(
        f'<rect x="{a:.1f}" y="{y(p["offered_rps"]):.1f}" width="{max(b - a, 2):.1f}" '
        f'height="{height - bottom - y(p["offered_rps"]):.1f}" fill="{colour}" fill-opacity="0.35" stroke="{colour}">'
        f'<title>{p["phase"]} {p["offered_rps"]:.1f} rps: {p["verdict"]}</title></rect>'
    )
    out.append(f'<path d="M{a:.1f} {y(p["goodput_rps"]):.1f}H{max(b, a + 2):.1f}" stroke="#111" stroke-width="2"/>')
    if p["phase"] in ("warm-up", "confirm"):
        out.append(f'<text x="{(a + b) / 2:.1f}" y="{y(p["offered_rps"]) - 6:.1f}" text-anchor="middle">{p["phase"]}</text>')
if found["sustainable_rps"]:
    r = found["sustainable_rps"]
    out.append(f'<path d="M{left} {y(r):.1f}H{width - 20}" stroke="#1565c0" stroke-dasharray="4 4"/>')
    out.append(f'<text x="{width - 20}" y="{y(r) - 6:.1f}" text-anchor="end" fill="#1565c0">sustainable: {r:.1f} rps</text>')
for i, (verdict, words) in enumerate((("meets", "carried"), ("violates", "not carried"))):
    out.append(f'<rect x="{width - 210 + 90 * i}" y="8" width="12" height="12" fill="{colours[verdict]}" fill-opacity="0.5"/>')
    out.append(f'<text x="{width - 193 + 90 * i}" y="18">{words}</text>')
out.append("</svg>")
print("\n".join(out))
