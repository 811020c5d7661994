"""Charts as inline SVG, drawn here: crisp, small, and coloured by the page's style sheet.

svg: elements and text. axes: scales, ticks, the frame of a chart. curves, strips, bars, cuts: one kind each.
All are WIDTH units wide and are scaled by the page; letters are FONT units high: 11 pixels on a phone.
"""
