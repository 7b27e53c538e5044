"""Networks that timm does not have. Importing this package registers them with timm, by one line for each.

A network follows timm's conventions: ``forward_features`` and ``forward_head``, ``forward_intermediates`` and ``feature_info``
for heads at several depths, and a ``default_cfgs`` of :class:`NetworkCfg` beside its entry point.
"""

from cosphere.models.networks import bn_inception as bn_inception
from cosphere.models.networks import iresnet as iresnet
from cosphere.models.networks import mobilefacenet as mobilefacenet
from cosphere.models.networks import small_resnet as small_resnet
