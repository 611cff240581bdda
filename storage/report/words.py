"""The words of the page and what they mean: shown on hover, and in full at its end."""

# What a reader may look for, in the order of a first reading: term, explanation.
WORDS = {
    "clip": (
        "Clip",
        "The few consecutive frames that the model sees at once, often 16: about half a second.",
    ),
    "voxel": ("Voxel", "One pixel of one frame: a point of the video in space and time."),
    "relevance": (
        "Relevance, or evidence",
        "How much a point of the video speaks for the explained class (positive, warm colours) or against it "
        "(negative, cool colours), by one explanation method.",
    ),
    "method": (
        "Explanation method",
        "A way to compute relevance from a model's insides. The methods see different things; deep_taylor "
        "spreads the whole decision, grad_cam points coarsely at regions, guided_backprop at edges.",
    ),
    "baseline": ("Baseline", "A method's relevance as it is, before the selective step."),
    "selective": (
        "Selective relevance",
        "The part of the relevance at points where it changes over time by more than a threshold.",
    ),
    "sigma": (
        "Sigma, the threshold",
        "How large a change over time must be to count, in standard deviations of all changes in the clip. "
        "2 is the usual choice.",
    ),
    "share": (
        "Motion share",
        "The part of the positive relevance that the selective step keeps at 2 sigma, averaged over clips: "
        "how much of the evidence changes over time.",
    ),
    "interval": (
        "95 % interval",
        "If other videos of the same kind had been drawn, the value would mostly lie in here. Computed by "
        "drawing the groups of related videos again and again.",
    ),
    "moves": (
        "Moves",
        "The optical flow is longer than a threshold: something is seen to move there, "
        "an object or the camera.",
    ),
    "flow": (
        "Optical flow",
        "How far and where to each point moves until the next frame, estimated from the video.",
    ),
    "precision": ("Precision", "Of the points that a map marks, the share that moves."),
    "base_rate": (
        "Base rate",
        "The share of all points that move: the precision of marking points at random.",
    ),
    "lift": ("Lift", "Precision over base rate. 1 is no better than chance, 2 is twice as good."),
    "kept_voxels": (
        "Voxels kept",
        "Of the points that a method marks, the share left by the selective step.",
    ),
    "kept_relevance": (
        "Relevance kept",
        "Of a method's positive relevance, the share left by the selective step.",
    ),
    "empty": ("Left empty", "Clips in which the selective step leaves no positive point at all."),
    "edges": ("Change over time", "How fast the relevance at a point rises or falls from frame to frame."),
    "conservation": (
        "Conservation error",
        "Deep Taylor relevance should add up to the decision that it explains; this is by how "
        "much it does not.",
    ),
    "flag": (
        "Flagged clip",
        "A clip that was explained, but whose explanation needs care; the reason is given.",
    ),
}
