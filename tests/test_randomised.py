import torch

from selrel.training import small_c3d
from selrel.training.randomised import cascade


def test_layers_become_random_one_after_another_from_the_output():
    torch.manual_seed(0)
    model, _ = small_c3d.make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = []
    for name, random in cascade(model, seed=3):
        done.append(name)
        for key, value in random.state_dict().items():
            layer = key.rpartition(".")[0]
            if layer not in done:
                assert torch.equal(value, before[key])
            elif key.endswith("bias"):
                assert torch.equal(value.sort().values, before[key].sort().values)
            else:
                assert not torch.equal(value, before[key])
                # The scale stays, so that signals neither die nor explode.
                assert 0.8 < float(value.std() / before[key].std()) < 1.25
    assert done == ["fc6", "fc5", "conv4", "conv3", "conv2", "conv1"]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_same_seed_same_weights():
    model, _ = small_c3d.make()
    first, second = ([m.state_dict() for _, m in cascade(model, seed=1)][-1] for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_small_c3d_takes_its_profiles_clips():
    model, profile = small_c3d.make()
    assert model(torch.zeros(2, *profile.sample_shape)).shape == (2, small_c3d.N_OUTPUTS)
