"""Images with the statistics of photographs, drawn from a seed; no photograph is needed."""

import torch


def photographs(count, side=32, seed=0):
    """Return `count` colour images in [0, 1]: smooth noise, colours mixed, bright or dark."""
    rng = torch.Generator().manual_seed(seed)
    spectrum = torch.randn(count, 5, side, side, generator=rng, dtype=torch.float64)
    rows = torch.fft.fftfreq(side, dtype=torch.float64)
    frequency = (rows[:, None] ** 2 + rows[None, :] ** 2).sqrt()
    # Power falls with the cube of frequency, as that of exp(-r / L) does in the plane.
    amplitude = (frequency**2 + (1 / (0.3 * 2 * torch.pi * side)) ** 2) ** -0.75
    noise = torch.fft.ifft2(torch.fft.fft2(spectrum) * amplitude).real
    noise = noise / noise.std()
    grey, red_blue, own = noise[:, :1], noise[:, 1:2], noise[:, 2:]
    opposed = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64).view(3, 1, 1)
    colour = 0.94 * grey + 0.25 * red_blue * opposed + 0.22 * own
    mean = torch.tensor([0.49, 0.47, 0.43], dtype=torch.float64).view(3, 1, 1)
    return (mean + 0.26 * colour).clamp(0, 1).float()
