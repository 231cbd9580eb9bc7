"""Questions asked of a model, one file each; whatever asks one finds the processes that share it (``distributed``)."""

from tl_entropy.analyses import distributed as distributed
