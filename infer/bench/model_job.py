"""What jobs that measure a real model have in common."""

import dataclasses

import medusa_jax
from medusa_jax import MedusaLM


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelJob:
    """Which model to measure.

    Attributes:
      model: folder, hub id or GGUF file; None: the default model.
      medusa: heads, see `medusa_jax.load`.
      mesh: devices to decode on, see `medusa_jax.load`; None: one.
      quantize: "none" or "int8".
    """

    model: str | None
    medusa: str | None
    mesh: str | None = None
    quantize: str = "none"

    def load(self, dtype: str, tree: str | None = None) -> MedusaLM:
        """The model, computed in `dtype`.

        Raises:
          UserError: something is wrong with the model, heads or mesh.
        """
        return medusa_jax.load(
            self.model,
            self.medusa,
            dtype=dtype,
            tree=tree,
            mesh=self.mesh,
            quantize=self.quantize,
        )

    def why_alone(self) -> str | None:
        """Why transformers is not the thing to compare with; None: it is."""
        if self.mesh is None and self.quantize == "none":
            return None
        return "it would decode the weights as they are, on one device"
