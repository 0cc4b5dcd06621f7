"""The gradient of one update of a VQGAN."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from one_peace.data.permutation import mix
from one_peace.models.vqgan.model import Vqgan
from one_peace.models.vqgan.presets import PRESETS
from one_peace.objectives.codes import code_loss
from one_peace.training.distributed import Processes
from one_peace.training.finetuning.examples import Examples
from one_peace.training.finetuning.recipe import FinetuneRecipe
from one_peace.training.forward_pass import ForwardPass
from one_peace.training.micro_batches import slot_of, slot_seed
from one_peace.training.vqgan.codebook import find_codebook
from one_peace.training.vqgan.recipe import CodingRecipe

PLACES_PER_CODE = 20  # that a fresh codebook is found by
AT_ONCE = 32  # pictures


class VqganPass(ForwardPass):
    """Reconstructions of pictures. A VQGAN is small, so that it is sharded as a whole."""

    model: Vqgan
    others = ("features", "reconstruct")

    def forward(
        self, pictures: Tensor, temperature: float | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Reconstructions through codes and logits, as of `Vqgan`; without codes and None, where `temperature` is."""
        with self.precision:
            if temperature is None:
                return self.model.decode_features(self.model.features(pictures)).float(), None
            reconstructed, logits = self.model(pictures, temperature, generator)
            return reconstructed.float(), logits.float()

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """What codes are chosen by, (batch * h * w, code width)."""
        with self.precision:
            return self.model.features(pictures).permute(0, 2, 3, 1).flatten(0, 2)

    @torch.no_grad()
    def reconstruct(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The most probable codes of pictures, and what they are decoded to."""
        with self.precision:
            codes = self.model.encode(pictures)
            return codes, self.model.decode(codes).float()


class CodingUpdate:
    """The gradients of an update, for the loop."""

    def __init__(
        self, losses: VqganPass, pictures: Examples[Tensor], recipe: FinetuneRecipe, processes: Processes, device: str
    ) -> None:
        self.local, self.micro = processes.divide(recipe.batch_size, recipe.micro_batch)
        self.losses, self.pictures, self.recipe = losses, pictures, recipe
        self.chosen, self.steps = recipe.coding or CodingRecipe(), recipe.updates(len(pictures))
        self.fresh = recipe.model in PRESETS
        self.uncoded = self.chosen.uncoded if self.fresh else 0
        self.processes, self.device = processes, torch.device(device)

    def gradients(self, step: int) -> dict[str, Tensor]:
        """Adds up the gradients of update `step` -> the mean loss of this process's pictures, and its parts."""
        drawn = self.pictures.batch(self.recipe.batch_size, step, self.processes.rank, self.processes.count)
        if self.fresh and step == self.uncoded:
            self._find_codebook()
        temperature = None if step < self.uncoded else self.chosen.temperature_at(step, self.steps)
        summed: dict[str, Tensor] = {}
        for start in range(0, self.local, self.micro):
            slot = slot_of(start // self.micro, self.local, self.micro, self.processes)
            generator = torch.Generator(self.device).manual_seed(slot_seed(self.recipe.seed, step, slot))
            pictures = torch.stack(drawn[start : start + self.micro]).to(self.device)
            reconstructed, logits = self.losses(pictures, temperature, generator)
            losses = code_loss(reconstructed, pictures, logits, self.chosen.usage)
            losses["total"].mul(self.micro / self.local).backward()
            for name, value in losses.items():
                summed[name] = summed.get(name, torch.zeros(())) + value.detach().cpu() * (self.micro / self.local)
        return summed if temperature is None else summed | {"temperature": torch.tensor(temperature)}

    def _find_codebook(self) -> None:
        """From the same pictures on every process, those of the first places of the run."""
        features: list[Tensor] = []
        wanted, place = PLACES_PER_CODE * self.losses.model.config.codes, 0
        while sum(map(len, features)) < wanted:
            some = torch.stack([self.pictures.at(place + number) for number in range(AT_ONCE)])
            features.append(self.losses.features(some.to(self.device)))
            place += AT_ONCE
        if isinstance(self.losses, FSDPModule):
            self.losses.reshard()  # what was gathered is of values that change now
        generator = torch.Generator().manual_seed(mix(self.recipe.seed, "codebook") >> 1)
        find_codebook(self.losses.model, torch.cat(features), generator)
