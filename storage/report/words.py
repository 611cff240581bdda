"""The page's own words and what they mean, shown on hover and in full at its end; metrics bring theirs."""

# Names as people write them; a method that is not here is called by its own.
_METHODS = {
    "discriminative": "discriminative, change",
    "discriminative_spatial": "discriminative, still frames",
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
    "edges": ("Change over time", "How fast the relevance at a point rises or falls from frame to frame."),
    "split": (
        "What still frames show, what change adds",
        "Each frame of a clip is repeated to a clip that stands still, and that is explained as well: what "
        "it has is what the frame shows by itself (spatial relevance). What the frame has in the real clip "
        "beyond that is what its change adds (temporal relevance).",
    ),
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
