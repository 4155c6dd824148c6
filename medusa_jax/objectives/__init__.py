"""What training minimises, a file per equation of the paper; pure functions of arrays.

`labels` and `cross_entropy` feed `medusa1` (equation 1), `medusa2` (equation 2) and `self_distill`
(section 2.3.2); `accuracy` has hits and expected tokens; `objective` ties them to the network, on a
few time steps at once (`logits`, `blockwise`). May use `nn` and `tree`; optimizers and data live in
`train`.
"""
