"""SEC in a training loop of your own: one line beside any loss.

    python examples/own_training_loop.py

Trains a small network on drawn stamps, once without and once with SEC, and prints how far the lengths spread. Half a minute on a CPU.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from cosphere import SphericalConstraint, read_catalogue
from cosphere.data import ClassBalancedBatches, ImageRows, collate
from cosphere.images import preset
from cosphere.losses import MultiSimilarityLoss
from cosphere.spherical import length_statistics
from cosphere.stamps import draw_stamps


def network() -> nn.Module:
    """Any network that ends in an embedding will do."""
    layers = [
        nn.Conv2d(3, 16, 5, 2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(32, 64))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stamps = read_catalogue(draw_stamps(Path(folder) / "stamps", designs=20, impressions=8, size=64)).select(
            "train"
        )
        preprocessing, augmentation = preset("normsoftmax", 48)
        batches = ClassBalancedBatches(stamps.labels, batch_size=24, images_per_class=4)
        loader = DataLoader(ImageRows(stamps, preprocessing, augmentation), batch_sampler=batches, collate_fn=collate)
        for weight in (0.0, 0.5):
            torch.manual_seed(0)
            model, criterion, sec = network(), MultiSimilarityLoss(), SphericalConstraint(radius="batch")
            optimizer = torch.optim.Adam(model.parameters(), 1e-3)
            for epoch in range(8):
                batches.set_epoch(epoch)
                for batch in loader:
                    embeddings = model(preprocessing.to_input(batch.pixels))  # not normalised: SEC needs the lengths
                    loss = criterion(embeddings, batch.labels) + weight * sec(embeddings)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            lengths = length_statistics(embeddings.detach())
            print(f"SEC weight {weight}: mean length {lengths.mean:.2f}, coefficient of variation {lengths.cv:.3f}")


if __name__ == "__main__":
    main()
