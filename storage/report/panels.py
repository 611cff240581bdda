"""What the page's charts and a paper's figures draw alike: the colours of methods."""

from __future__ import annotations

# Okabe and Ito's colours, which colour-blind readers tell apart, the light ones darkened for a white page;
# markers and dashes differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B37700", "#2E8BC0", "#000000")
