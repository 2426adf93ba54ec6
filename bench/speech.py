"""Eight requests with speech through a Qwen2.5-Omni of 19 million random parameters, against its stock `generate`.

`python bench/speech.py [REPEATS]` makes the model and runs `interlace bench stages --model` with it. Thinker, talker
and code2wav have 14.4, 3.7 and 1.0 million parameters, shares close to those of the real 7B model.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from interlace.bench.load.speech import speech

SIZES = (512, 6, 256, 128)  # the thinker's width and layers, the talker's width, the code2wav's


def main() -> None:
    from tests.stages.omni_models import save_qwen2_5_omni

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        save_qwen2_5_omni(Path("omni-19m"), *SIZES)
        speech(model="omni-19m", repeats=int((sys.argv[1:] or ["3"])[0]))


if __name__ == "__main__":
    main()
