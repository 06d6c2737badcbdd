"""A network whose layers follow one another."""

from torch import Tensor, nn

from vidkd.models.attention import owns


class Chain(nn.Sequential):
    """Layers in a row, and beside them perhaps an attention, which is not one of the row."""

    def forward(self, input: Tensor) -> Tensor:
        for name, layer in self.named_children():
            if not owns(name):
                input = layer(input)
        return input
