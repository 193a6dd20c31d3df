"""The same work as it is usually written: the ConvNet of PyTorch's own modules in float32, a hallucinator call for
every sample, one graph over all student steps."""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.distillation import DistributionMatching, TrajectoryMatching
from haba_hf.distillation.adversary import Adversary, contrastive_loss, cosine_loss
from haba_hf.distillation.objectives.trajectory_matching import draw_pairs
from haba_hf.networks import ConvNet


class NativeConvNet(nn.Module):
    """A ConvNet's modules, called one after the other."""

    def __init__(self, network: ConvNet):
        super().__init__()
        self.blocks, self.classifier = network.blocks, network.classifier

    def features(self, images):
        return torch.flatten(self.blocks(images), 1)

    def forward(self, images):
        return self.classifier(self.features(images))


def samples_one_by_one(model, pairs):
    """Samples and labels of pairs, basis * K + hallucinator, with a hallucinator call for each."""
    hallucinators = model.config.num_hallucinators
    outputs = [model(pair // hallucinators, pair % hallucinators) for pair in pairs.view(-1, 1)]
    return torch.cat([output.samples for output in outputs]), torch.cat([output.labels for output in outputs])


class NaiveTrajectoryMatching(TrajectoryMatching):
    def prepare(self, real_data, model, accelerator):
        super().prepare(real_data, model, accelerator)
        self.native = NativeConvNet(self.student.network)

    def backward(self, model, generator):
        arguments, settings = self.arguments, self.settings
        start, target = self.experts.draw(settings.max_start, settings.expert_span, generator)
        theta = start.clone().requires_grad_()
        steps, batch_size = settings.student_steps, arguments.student_batch_size
        for pairs in draw_pairs(model, steps, batch_size, arguments.pairing, generator):
            samples, labels = samples_one_by_one(model, pairs)
            parts = zip(self.student.names, theta.split(self.student.sizes), self.student.shapes, strict=True)
            parameters = {name: part.view(shape) for name, part, shape in parts}
            logits = functional_call(self.native, parameters, (self.augmentation(samples, generator),))
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), theta, create_graph=True)
            theta = theta - model.student_learning_rate * gradient
        loss = (theta - target).square().sum() / (start - target).square().sum()
        loss.backward()
        return {"l_dd": loss.item()}


class NaiveDistributionMatching(DistributionMatching):
    def backward(self, model, generator):
        network = NativeConvNet(self._network(int(torch.randint(2**31 - 1, (), generator=generator))))
        loss = torch.zeros(())
        for label, members in enumerate(self.members):
            augmentation = self.augmentation.draw(1, generator)
            chosen = members[torch.randperm(len(members), generator=generator)[: self.arguments.real_batch_size]]
            real = self.data.processor.normalize(self.data.train.images[chosen])
            pairs = torch.cat(
                [
                    basis * model.config.num_hallucinators + torch.arange(model.config.num_hallucinators)
                    for basis in (model.class_ids == label).nonzero()
                ]
            )
            samples, _ = samples_one_by_one(model, pairs)
            means = [
                network.features(DsaAugmentation.apply(images, augmentation)).mean(dim=0) for images in (real, samples)
            ]
            loss = loss + (means[0].detach() - means[1]).square().sum()
        loss.backward()
        return {"l_dd": loss.item()}


class AdversaryAtOnce(Adversary):
    """All samples in one pass and one graph."""

    def backward(self, model, generator):
        settings = self.settings
        hallucinators = torch.randperm(model.config.num_hallucinators, generator=generator)
        hallucinators = hallucinators[: settings.adversary_hallucinators]
        bases = torch.randperm(model.config.num_bases, generator=generator)
        output = model(bases.repeat(len(hallucinators)), hallucinators.repeat_interleave(len(bases)))
        samples = output.samples.detach().requires_grad_()
        features = self.network.features(self.augmentation(samples, generator))
        features_VBD = features.view(len(hallucinators), len(bases), -1)
        l_cos, l_con = cosine_loss(features_VBD), contrastive_loss(features_VBD, settings.temperature)
        l_task = F.cross_entropy(self.network.classifier(features), output.labels)
        (d_samples,) = torch.autograd.grad(settings.lambda_cos * l_cos, samples, retain_graph=True)
        output.samples.backward(d_samples)
        l_f = settings.lambda_con * l_con + settings.lambda_task * l_task
        l_f.backward(inputs=list(self.network.parameters()))
        return {"l_cos": l_cos.item(), "l_con": l_con.item(), "l_task": l_task.item()}


def train_on_real(network, images, labels, processor, batch_size, learning_rate, seed):
    """An epoch of an expert."""
    native, augmentation = NativeConvNet(network), DsaAugmentation()
    optimizer = torch.optim.SGD(native.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    for rows in torch.randperm(len(labels), generator=generator).split(batch_size):
        loss = F.cross_entropy(native(augmentation(processor.normalize(images[rows]), generator)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
