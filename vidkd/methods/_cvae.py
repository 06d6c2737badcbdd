"""The conditional VAE of generative attention distillation (AAAI 2024): features F given their attention lam."""

from typing import Literal

import torch
from torch import Tensor, nn

from vidkd.models.attention import group_norm

Spatial = Literal["pool", "conv"]


class CVAE(nn.Module):
    """Encoder q(z | F, lam) and decoder p(F | z, lam), a latent of C numbers for every time step.

    conv (published): F is the map [B, C, T, h, w]; a convolution folds h x w in front of the encoder and unfolds it
    behind the decoder, which ends in a ReLU. pool (ours): F is the map's spatial mean [B, C, T], and neither
    convolution is there: a twelfth of the parameters at 7 x 7, and any h and w.
    """

    def __init__(self, channels: int, spatial: Spatial, size: tuple[int, int]) -> None:
        """`size` (h, w): of the maps; only conv depends on it."""
        super().__init__()
        self.spatial, self.size = spatial, size
        self.encoder = mlp(2 * channels, channels, 2 * channels)
        self.decoder = mlp(2 * channels, channels, channels)
        if spatial == "conv":
            kernel = (1, *self.size)
            self.fold = nn.Sequential(nn.Conv3d(channels, channels, kernel), group_norm(channels), nn.ReLU())
            self.unfold = nn.Sequential(nn.ConvTranspose3d(channels, channels, kernel), group_norm(channels), nn.ReLU())

    def content(self, maps: Tensor) -> Tensor:
        """[B, C, T, h, w] -> F: what is encoded and drawn again. ValueError for maps of another size than conv's."""
        if self.spatial == "pool":
            return maps.mean((3, 4))
        if tuple(maps.shape[3:]) != self.size:
            raise ValueError(f"a CVAE for maps of {self.size} met {tuple(maps.shape[3:])}")
        return maps

    def encode(self, content: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """F, lam [B, C, T] -> mean and log variance of z [B, T, C]."""
        folded = self.fold(content).flatten(2) if self.spatial == "conv" else content
        # contiguous, here and below: else torch picks its kernel by whether a gradient is wanted, and answers differ
        seen = torch.cat([folded, lam], 1).transpose(1, 2).contiguous()
        mean, log_var = self.encoder(seen).float().chunk(2, dim=2)
        return mean, log_var

    def decode(self, z: Tensor, lam: Tensor) -> Tensor:
        """z [B, T, C], lam [B, C, T] -> F."""
        drawn = self.decoder(torch.cat([z, lam.transpose(1, 2)], 2).contiguous()).transpose(1, 2)
        return (self.unfold(drawn[..., None, None]) if self.spatial == "conv" else drawn).float()

    def posterior(self, content: Tensor, lam: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """F drawn again from z ~ q(z | F, lam), and the mean and log variance of z; `noise` [B, T, C] is z's."""
        mean, log_var = self.encode(content, lam)
        return self.decode(mean + noise * (0.5 * log_var).exp(), lam), mean, log_var

    def prior(self, lam: Tensor, noise: Tensor) -> Tensor:
        """F drawn from z ~ N(lam, 1), the attention alone."""
        return self.decode(lam.transpose(1, 2) + noise, lam)


def mlp(c_in: int, width: int, c_out: int) -> nn.Sequential:
    """Three linear layers with ReLUs between them."""
    return nn.Sequential(nn.Linear(c_in, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, c_out))


def gaussian_kl(mean: Tensor, log_var: Tensor, to_mean: Tensor, to_log_var: Tensor | None = None) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(to_mean, exp(to_log_var))), mean over all elements; variance 1 where not given."""
    to_log_var = torch.zeros_like(log_var) if to_log_var is None else to_log_var
    spread = (log_var - to_log_var).exp() + (mean - to_mean).square() * (-to_log_var).exp()
    return 0.5 * (spread - 1 + to_log_var - log_var).mean()
