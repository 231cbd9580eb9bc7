"""Results of ``confidence`` and ``unigram_distance`` of the bundled model, in files that later versions have to read.

python tests/results/saved_since_0_5_0/make_site_values.py FOLDER
"""

import sys
from pathlib import Path

import tl_entropy as tle

if __name__ == "__main__":
    folder, model, texts = Path(sys.argv[1]), tle.demo_model(), ["import os\nimport sys\n", "def f(x):\n    return x\n"]
    tle.confidence(model, texts, sites=("embed", "resid_post"), progress=False).save(folder / "Confidence.safetensors")
    calibration = tle.entropy_calibration(model, tle.demo_texts(2), prompt_tokens=8, steps=4, progress=False)
    calibration.save(folder / "EntropyCalibration.safetensors")
    tle.unigram_distance(model, texts, progress=False).save(folder / "UnigramDistance.safetensors")
    tle.confidence(model, texts, keep="summary", sites="resid_post", progress=False).save(folder / "SiteMeans.safetensors")
