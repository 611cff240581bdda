"""The figures of the paper's tables, to be printed beside ours.

Hiley et al. 2020 (arXiv 2003.14285), section 5: C3D of 74 % accuracy, 1,010 videos of UCF-101, 12,219
clips. Shares are fractions here, times are seconds; sigma 0 is the baseline, and the selective maps are
taken to be those of 2 sigma, which Table 3 fits.
"""

from types import MappingProxyType

PAPER = MappingProxyType(
    {
        "table1": (
            {"method": "deep_taylor", "sigma": 0.0, "mean": 0.2779, "std": 0.1672},
            {"method": "deep_taylor", "sigma": 2.0, "mean": 0.4109, "std": 0.1889},
            {"method": "grad_cam", "sigma": 0.0, "mean": 0.2817, "std": 0.1678},
            {"method": "grad_cam", "sigma": 2.0, "mean": 0.3612, "std": 0.1711},
            {"method": "guided_backprop", "sigma": 0.0, "mean": 0.4748, "std": 0.1744},
            {"method": "guided_grad_cam", "sigma": 0.0, "mean": 0.4289, "std": 0.1703},
            {"method": "guided_grad_cam", "sigma": 2.0, "mean": 0.4576, "std": 0.1712},
        ),
        "table2": (
            {"method_a": "deep_taylor", "method_b": "grad_cam", "sigma": 0.0, "mean": 0.3661, "std": 0.1384},
            {
                "method_a": "deep_taylor",
                "method_b": "guided_backprop",
                "sigma": 0.0,
                "mean": 0.0279,
                "std": 0.0178,
            },
            {
                "method_a": "grad_cam",
                "method_b": "guided_backprop",
                "sigma": 0.0,
                "mean": 0.0095,
                "std": 0.0048,
            },
        ),
        "table3": (
            {
                "method": "deep_taylor",
                "sigma": 2.0,
                "voxels_mean": 0.077,
                "voxels_std": 0.041,
                "relevance_mean": 0.105,
                "relevance_std": 0.071,
            },
            {
                "method": "grad_cam",
                "sigma": 2.0,
                "voxels_mean": 0.047,
                "voxels_std": 0.007,
                "relevance_mean": 0.026,
                "relevance_std": 0.003,
            },
            {
                "method": "guided_grad_cam",
                "sigma": 2.0,
                "voxels_mean": 0.419,
                "voxels_std": 0.078,
                "relevance_mean": 0.369,
                "relevance_std": 0.076,
            },
        ),
        "table4": (
            {"method": "deep_taylor", "low": 0.00116, "high": 0.00171},
            {"method": "grad_cam", "low": 0.136, "high": 0.137},
            {"method": "guided_grad_cam", "low": 0.246, "high": 0.247},
        ),
    }
)
