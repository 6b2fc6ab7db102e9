"""Schedules of a chain, and the time that its networks receive."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from chains import BETAS, CHAINS, D, normal
from torch import Tensor, nn

from scoresde import Preconditioned
from scoresde.ddpm import DDPM, ChainSDE, ChainTime
from scoresde.sde import VPSDE, CosineSDE

# Schedules


@pytest.mark.parametrize("name", CHAINS)
def test_abar_is_the_exact_product(name: str) -> None:
    chain, exact = CHAINS[name], Fraction(1)
    for i, beta in enumerate(chain.betas, 1):
        exact *= 1 - Fraction(beta)
        assert chain.abar[i] == pytest.approx(float(exact), rel=1e-12)
        assert chain.bbar[i] == pytest.approx(float(1 - exact), rel=1e-12)
        assert chain.log_snr[i] == pytest.approx(
            0.5 * (math.log(exact) - math.log(1 - exact)), abs=1e-12
        )


@pytest.mark.parametrize("name", CHAINS)
def test_the_sde_of_a_chain_is_exact_at_the_nodes(name: str) -> None:
    chain = CHAINS[name]
    sde, n = chain.to_sde(), chain.N
    for i in range(1, n + 1):
        node = sde.at(i / n)
        assert node.alpha**2 == pytest.approx(chain.abar[i], rel=1e-12)
        assert node.sigma**2 == pytest.approx(chain.bbar[i], rel=1e-12)
        assert sde.time_of(node.log_snr) == pytest.approx(i / n, rel=1e-9)
        scale, std = sde.transition((i - 1) / n, i / n)  # which is q_step
        assert scale**2 == pytest.approx(1 - chain.betas[i - 1], rel=1e-12)
        assert std**2 == pytest.approx(chain.betas[i - 1], rel=1e-10)
        # the rate of the step that ends there
        assert node.g**2 == pytest.approx(-n * math.log1p(-chain.betas[i - 1]), rel=1e-12)
    assert math.isinf(sde.log_snr(0.0)) and sde.sigma(0.0) == 0.0


def test_the_sde_of_a_chain_is_one_sde_for_every_kind_of_time() -> None:
    sde = ChainSDE(BETAS)
    times = np.linspace(0.013, 0.987, 41)  # between the nodes
    for name in ("log_alpha", "alpha", "sigma", "log_snr", "rate", "g"):
        fn = getattr(sde, name)
        floats = np.array([fn(float(t)) for t in times])
        assert np.abs(fn(times) - floats).max() < 1e-12
        assert (fn(torch.tensor(times)) - torch.tensor(floats)).abs().max() < 1e-12
        assert fn(torch.tensor(times).float()).dtype == torch.float32
    lam = sde.log_snr(times)
    assert np.abs(sde.time_of(lam) - times).max() < 1e-12
    assert (sde.time_of(torch.tensor(lam)) - torch.tensor(times)).abs().max() < 1e-12
    t = torch.tensor(times, requires_grad=True)
    (slope,) = torch.autograd.grad(sde.log_alpha(t).sum(), t)
    assert (slope - sde.rate(t)).abs().max() < 1e-12
    (slope,) = torch.autograd.grad(sde.sigma(t).square().sum(), t)
    g2 = slope - 2 * sde.rate(t) * sde.sigma(t) ** 2
    assert (g2 - sde.g(t) ** 2).abs().max() < 1e-10
    x = normal(41, 3)
    batch = sde.at(torch.tensor(times), like=x)
    for k, time in enumerate(times):
        node = sde.at(float(time))
        for name in ("t", "g", "alpha", "sigma", "log_snr", "rate"):
            assert float(getattr(batch, name)[k]) == pytest.approx(getattr(node, name), rel=1e-12)


def test_at_its_nodes_a_chain_s_rate_is_that_of_the_step_that_ends_there() -> None:
    for n in (3, 5, 49, 1000):
        betas = [0.001 + 0.3 * ((7 * i) % n) / n for i in range(n)]
        sde, x = ChainSDE(betas), torch.zeros(n, 1, dtype=D)
        times = [i / n for i in range(1, n + 1)]
        exact = torch.tensor([-n * math.log1p(-b) for b in betas], dtype=D)
        node = sde.at(torch.tensor(times, dtype=D), like=x)
        for g in (node.g[:, 0], sde.g(torch.tensor(times, dtype=D))):
            assert (g.square() / exact - 1).abs().max() < 1e-12
        assert (node.rate[:, 0] / exact + 0.5).abs().max() < 1e-12
        arrays = sde.g(np.array(times)) ** 2, -2 * sde.rate(np.array(times))
        assert max(np.abs(a / exact.numpy() - 1).max() for a in arrays) < 1e-12
        floats = [sde.g(t) ** 2 for t in times]
        assert floats == pytest.approx(exact.tolist(), rel=1e-12)


def test_the_sde_of_a_chain_is_a_value_with_the_prior_of_the_chain() -> None:
    sde, x = ChainSDE(torch.tensor(BETAS, dtype=D)), normal(4, 3)
    assert sde == DDPM(BETAS).to_sde() and hash(sde) == hash(ChainSDE(list(BETAS)))
    assert sde != ChainSDE(BETAS[::-1])
    assert sde.t_min == sde.t_end == 0.2
    assert torch.equal(sde.sample_prior(x), x)
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    assert (sde.prior_log_prob(x) - exact).abs().max() < 1e-12
    assert (sde.prior_kl(x) - DDPM(BETAS).prior_kl(x)).abs().max() < 1e-12


def test_the_schedules_of_the_papers() -> None:
    linear = DDPM.linear()
    assert linear.betas[0] == 1e-4 and linear.betas[-1] == pytest.approx(0.02, rel=1e-12)
    assert linear.abar[-1] == pytest.approx(4.04e-5, rel=1e-2)  # Ho et al. 2020, sec. 4
    cosine = DDPM.cosine(100)
    f = [math.cos(math.pi / 2 * (i / 100 + 0.008) / 1.008) ** 2 for i in range(101)]
    for i in range(100):
        assert cosine.abar[i] == pytest.approx(f[i] / f[0], rel=1e-10)
    assert cosine.betas[-1] == 0.999
    assert DDPM(np.array(BETAS)) == DDPM(torch.tensor(BETAS, dtype=D)) == DDPM(list(BETAS))


@pytest.mark.parametrize("sde", [VPSDE(), CosineSDE()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("grid", ["uniform", "log_snr", "times"])
def test_a_chain_of_an_sde_has_its_marginals(sde, grid) -> None:
    times = [0.001, 0.01, 0.1, 0.5, 0.9] if grid == "times" else grid
    chain = DDPM.from_sde(sde, 5, grid=times)
    nodes = chain.nodes(sde)
    for i, node in enumerate(nodes, 1):
        assert node.alpha**2 == pytest.approx(chain.abar[i], rel=1e-12)
        assert node.sigma**2 == pytest.approx(chain.bbar[i], rel=1e-12)
    if grid == "uniform":
        assert [n.t for n in nodes] == pytest.approx([sde.T * i / 5 for i in range(1, 6)])
    if grid == "log_snr":
        gaps = np.diff(chain.log_snr[1:])
        assert gaps == pytest.approx(gaps[0], rel=1e-9)
        assert nodes[0].t == pytest.approx(sde.t_end)
    if grid == "times":
        assert [n.t for n in nodes] == pytest.approx(times, rel=1e-12)
    # the marginals of the chain's own SDE are the same ones
    own = chain.nodes(chain.to_sde())
    assert [n.log_snr for n in own] == pytest.approx([n.log_snr for n in nodes], abs=1e-12)


# What a network is told


@pytest.mark.parametrize(
    ("convention", "told"),
    [
        ("i", lambda i, n: i),
        ("i-1", lambda i, n: i - 1),
        ("i/N", lambda i, n: i / n),
        ("(N-1)t", lambda i, n: i / n * (n - 1)),
        ("999t", lambda i, n: i / n * 999),
        ("1000(t-1/N)", lambda i, n: (i / n - 1 / n) * 1000),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_a_network_is_told_its_own_time(convention, told, dtype) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            self.seen = t
            return x

    chain, net = DDPM.linear(300), Net()
    model = chain.score_model(net, convention)
    assert isinstance(model, Preconditioned) and model.sde == chain.to_sde()
    steps = torch.tensor([1, 2, 150, 299, 300])
    x = torch.zeros(5, 2, dtype=dtype)
    chain.p_mean_variance(model, steps, x)
    whole = convention in ("i", "i-1")
    expected = [told(int(i), 300) for i in steps]
    assert net.seen.tolist() == (
        expected if whole else pytest.approx(expected, rel=1e-6 if dtype != D else 1e-12)
    )
    for i in range(1, 301):
        chain.p_mean_variance(model, i, x)
        seen = float(net.seen[0])
        assert seen == told(i, 300) if whole else math.isclose(seen, told(i, 300), rel_tol=1e-6)
    model.predict(model.sde.at(150.4 / 300), x)  # between the steps: a fraction
    assert float(net.seen[0]) == pytest.approx(told(150.4, 300), rel=1e-6)
    time = ChainTime(convention, 300, whole=True)
    assert time(model.sde.at(150.4 / 300)) == pytest.approx(told(150, 300), rel=1e-12)
    assert ChainTime.from_dict(json.loads(json.dumps(time.to_dict()))) == time
