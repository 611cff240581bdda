"""The words of the page and what they mean: shown on hover, and in full at its end."""

# Names as people write them; a method that is not here is called by its own.
_METHODS = {
    "deep_taylor": "deep Taylor",
    "grad_cam": "Grad-CAM",
    "guided_backprop": "guided backpropagation",
    "guided_grad_cam": "guided Grad-CAM",
    "gradient_x_input": "gradient times input",
}
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
        "A way to compute relevance from a model's insides. The methods see different things; deep Taylor "
        "spreads the whole decision, Grad-CAM points coarsely at regions, guided backpropagation at edges.",
    ),
    "baseline": ("Baseline", "A method's relevance as it is, before the selective step."),
    "selective": (
        "Selective relevance",
        "The part of the relevance at points where it changes over time by more than a threshold.",
    ),
    "map": (
        "Map",
        "Which points are looked at: the baseline, or the selective relevance of a threshold.",
    ),
    "marked": ("Marked point", "A point whose relevance in a map is above 0: it speaks for the class."),
    "sigma": (
        "Sigma, the threshold",
        "How large a change over time must be to count, in standard deviations of all changes in the clip. "
        "2 is the usual choice.",
    ),
    "share": (
        "Motion share",
        "The part of the positive relevance that the selective step keeps at the usual threshold (2 standard "
        "deviations) by deep Taylor, averaged over clips: "
        "how much of the evidence changes over time.",
    ),
    "reliance": (
        "Motion reliance",
        "The part of the score of the model's answers that is lost when every clip is frozen at its middle "
        "frame: 0 % if the still picture says as much, 100 % if it says nothing, more if it speaks against "
        "the answer. With the frames shuffled it is the reliance on their order, and with time reversed that "
        "on its direction.",
    ),
    "interval": (
        "95 % interval",
        "The range of values that fit these videos; it knows nothing of other trainings of the model. "
        "Computed from how far apart the groups of related videos lie, so fewer than three groups give none.",
    ),
    "group": (
        "Group of videos",
        "Videos of the same scene or person, which are alike: they count as one in an interval.",
    ),
    "deviation": ("Standard deviation (sd)", "How far apart the values of the clips lie."),
    "moves": (
        "Moves",
        "The optical flow is longer than a threshold: something is seen to move there, "
        "an object or the camera.",
    ),
    "flow": (
        "Optical flow",
        "How far and where to each point moves until the next frame, estimated from the video.",
    ),
    "object_motion": (
        "Object motion",
        "What moves against the background: the motion seen, with the camera's taken off.",
    ),
    "precision": ("Precision", "Of the points that a map marks, the share that moves."),
    "weighted": ("Weighted precision", "Precision with every point counted by its relevance."),
    "area": (
        "Top 2 to 20 %",
        "Precision of only the most relevant points, as many as that share of the clip.",
    ),
    "recall": ("Recall", "Of the points that move, the share that a map marks."),
    "base_rate": (
        "Base rate",
        "The share of all points that move: the precision of marking points at random.",
    ),
    "lift": (
        "Lift",
        "Precision over base rate. 1 is no better than chance, 2 is twice as good. Where fewer than 1 % of "
        "the points move there is none: a handful of points would make it any number.",
    ),
    "kept_voxels": (
        "Voxels kept",
        "Of the points that a method marks, the share left by the selective step.",
    ),
    "kept_relevance": (
        "Relevance kept",
        "Of a method's positive relevance, the share left by the selective step.",
    ),
    "agreement": ("Agreement", "Of all points, the share that both of two maps mark."),
    "iou": (
        "Intersection over union",
        "Of the points that at least one of two maps marks, the share that both mark.",
    ),
    "empty": ("Empty", "Clips in which a map has no positive point at all."),
    "edges": ("Change over time", "How fast the relevance at a point rises or falls from frame to frame."),
    "conservation": (
        "Conservation error",
        "Deep Taylor relevance should add up to the decision that it explains; this is by how "
        "much it does not.",
    ),
    "flag": (
        "Flagged clip",
        "A clip that was explained and counts, but for a class that is not the model's answer: the evidence "
        "is for what the model does not say.",
    ),
}


def method_name(method: str) -> str:
    """A method's name for a reader."""
    return _METHODS.get(method, method.replace("_", " "))
