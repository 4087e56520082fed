"""DETR: backbone, encoder, decoder. Images in, a set of boxes out, no anchors and no suppression."""

import torch
from torch import Tensor, nn

from detr_mini.backbone import ResNet50, SmallBackbone, padding_at
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.decoder import Decoder, DetectorOutput
from detr_mini.efficientnet import EfficientNetLite0
from detr_mini.encoder import Encoder
from detr_mini.positions import Grid, SineGrid
from detr_mini.recipes import ModelRecipe
from detr_mini.trace import Traced


class Detr(Traced):
    """The base detector (Carion et al. 2020). Each variant subclasses it and names its own encoder and decoder.

    Forward: images (B, 3, H, W) normalised, mask (B, H, W) True on padding (None: no padding)
    -> DetectorOutput with logits (L, B, Q, C) and boxes (L, B, Q, 4).
    Raises ValueError when the shapes of images and mask do not fit.
    """

    system = "detr"
    encoder_class: type[Encoder] = Encoder
    decoder_class: type[Decoder] = Decoder
    stages: tuple[int, ...] = (4,)

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.backbone = self.make_backbone(recipe)
        self.input_proj = self.make_projections(recipe)
        self.grid_position = self.make_grid_position(recipe)
        self.encoder = self.encoder_class(recipe)
        self.decoder = self.decoder_class(recipe)

    def make_backbone(self, recipe: ModelRecipe) -> nn.Module:
        """The network that turns images into feature maps; ValueError for a name it does not know."""
        if recipe.backbone == "resnet50":
            return ResNet50(self.stages, recipe.dilation)
        if recipe.dilation:
            raise ValueError(f"dilation is for resnet50: leave it out with backbone {recipe.backbone!r}")
        if recipe.backbone == "efficientnet_lite0":
            return EfficientNetLite0(self.stages)
        if recipe.backbone == "small":
            return SmallBackbone(self.stages)
        raise ValueError(f"backbone {recipe.backbone!r} is unknown: choose resnet50, efficientnet_lite0 or small")

    def make_projections(self, recipe: ModelRecipe) -> nn.ModuleList:
        """One layer per feature map that brings its channels to d_model."""
        return nn.ModuleList(nn.Conv2d(channels, recipe.d_model, 1) for channels in self.backbone.channels)

    def make_grid_position(self, recipe: ModelRecipe) -> nn.Module:
        """The address of every cell."""
        return SineGrid(recipe.d_model)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> DetectorOutput:
        if mask is None:
            mask = torch.zeros_like(images[:, 0], dtype=torch.bool)  # (B, H, W)
        if images.ndim != 4 or mask.shape != images[:, 0].shape:
            shapes = tuple(images.shape), tuple(mask.shape)
            raise ValueError(f"images and mask have shapes {shapes}: expected (B, 3, H, W) and (B, H, W)")
        tokens, grid = self.tokenize(images, mask)  # (B, HW, d)
        self.record(shapes=grid.shapes, padding_mask=grid.padding_mask, position=grid.position)
        memory = self.encoder(tokens, grid)  # (B, HW, d)
        return self.decoder(memory, grid)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """The projected maps, one per level: (B, 3, H, W) -> [(B, d, h, w)].

        A variant may have more projections than the backbone has maps: each makes one more level of the one before.
        """
        maps = self.backbone(images)
        projected = [project(features) for project, features in zip(self.input_proj, maps, strict=False)]
        coarsest = maps[-1]
        for project in self.input_proj[len(maps):]:
            coarsest = project(coarsest)
            projected.append(coarsest)
        return projected

    def tokenize(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Grid]:
        """Images to tokens (B, HW, d), and the grid that says where each token sits."""
        maps = self.feature_maps(images)
        masks = [padding_at(mask, features.shape[-2:]) for features in maps]  # [(B, h, w)]
        positions = [self.grid_position(m).flatten(1, 2) for m in masks]  # [(B, hw, d)]
        tokens = torch.cat([features.flatten(2).transpose(1, 2) for features in maps], dim=1)  # (B, HW, d)
        hidden = torch.cat([m.flatten(1) for m in masks], dim=1)  # (B, HW)
        return tokens, Grid(torch.cat(positions, dim=1), hidden, [tuple(m.shape[1:]) for m in masks])

    @torch.no_grad()
    def postprocess(self, output: DetectorOutput, orig_sizes: Tensor, top_k: int = 100) -> list[dict[str, Tensor]]:
        """The final layer's answer in pixels of the original images, best first.

        orig_sizes: (B, 2) as (height, width). Returns per image scores (K,), labels (K,), boxes (K, 4) xyxy.
        Softmax head: every query gives its best class. Focal head: the best K of all query-class pairs, as in
        Deformable DETR's code, so one query may appear under two classes.
        """
        logits, boxes = output.logits[-1].float(), cxcywh_to_xyxy(output.boxes[-1].float())
        if self.recipe.head == "softmax":
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)  # (B, Q)
            scores, query = scores.topk(min(top_k, scores.shape[1]))  # (B, K)
            labels = labels.gather(1, query)
        else:
            logits = logits[..., : self.recipe.classes]  # without SMCA's spare logit
            pairs = logits.sigmoid().flatten(1)  # (B, Q*C)
            scores, best = pairs.topk(min(top_k, pairs.shape[1]))  # (B, K)
            query, labels = best // logits.shape[-1], best % logits.shape[-1]
        boxes = boxes.gather(1, query[..., None].expand(-1, -1, 4))  # (B, K, 4)
        scale = orig_sizes.to(boxes).flip(1).repeat(1, 2)[:, None]  # (B, 1, 4) width, height, width, height
        rows = zip(scores, labels, boxes * scale, query, strict=True)
        return [dict(zip(("scores", "labels", "boxes", "queries"), row, strict=True)) for row in rows]
