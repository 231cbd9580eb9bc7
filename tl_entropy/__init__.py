"""tl_entropy: information measures on the insides of TransformerLens models.

    >>> import tl_entropy as tle
    >>> result = tle.lens_entropy(tle.demo_model(), tle.demo_texts(1)[0][:400], progress=False)

The public names stand in ``__init__.pyi``. Each is imported when it is first used, so that ``import tl_entropy`` pulls in
neither torch nor matplotlib nor transformer_lens.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.5.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
