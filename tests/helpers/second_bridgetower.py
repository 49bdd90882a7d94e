"""BridgeTower once more, from torch.nn's own pieces: a second derivation for what transformers cannot run.

It knows a config.json and the names of a checkpoint, and nothing of minivl. Everything is computed in float64, one
formula of the paper after the other; distances and positions are counted in loops.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

ACT = {"gelu": F.gelu, "gelu_new": nn.GELU(approximate="tanh"), "relu": F.relu, "silu": F.silu}
TOP = dict(share_cross_modal_transformer_layers=True, share_link_tower_layers=False, link_tower_type="add")
TOP |= dict(layer_norm_eps=1e-5, tie_word_embeddings=False, hidden_act="gelu")
TEXT = dict(layer_norm_eps=1e-5, hidden_act="gelu", pad_token_id=1, position_embedding_type="absolute")
VISION = dict(layer_norm_eps=1e-5, remove_last_layer=False)


class Second:
    """`config` as in config.json, `weights` {Hub name: array}; call it with arrays and it gives a dict of tensors."""

    def __init__(self, config, weights):
        self.top, self.text, self.vision = TOP | config, TEXT | config["text_config"], VISION | config["vision_config"]
        self.w = {name.removeprefix("bridgetower."): torch.tensor(x).double() for name, x in weights.items()}

    def linear(self, name, x):
        weight = self.w[f"{name}.weight"]
        layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
        layer.load_state_dict({part: self.w[f"{name}.{part}"] for part in ("weight", "bias")})
        return layer(x)

    def norm(self, name, x, config):
        layer = nn.LayerNorm(x.shape[-1], eps=config["layer_norm_eps"]).double()
        layer.load_state_dict({part: self.w[f"{name}.{part}"] for part in ("weight", "bias")})
        return layer(x)

    def attention(self, parts, heads, x, memory, hidden=None, distances=None):
        """nn.MultiheadAttention: (what it says, its maps). `hidden` (B, S) is True at keys that nobody may see."""
        weight, bias, out = parts
        layer = nn.MultiheadAttention(x.shape[-1], heads, batch_first=True).double()
        last = {f"out_proj.{part}": self.w[f"{out}.{part}"] for part in ("weight", "bias")}
        layer.load_state_dict({"in_proj_weight": weight, "in_proj_bias": bias} | last)
        added = torch.zeros(len(x), heads, x.shape[1], memory.shape[1], dtype=torch.float64)
        if distances is not None:
            added = added + self.by_distance(x, memory, heads, weight, bias, distances)
        if hidden is not None:
            added = added.masked_fill(hidden[:, None, None], -math.inf)
        return layer(x, memory, memory, attn_mask=added.flatten(0, 1), average_attn_weights=False)

    def by_distance(self, x, memory, heads, weight, bias, table):
        """What a score gains from the distance between its two places, one score at a time."""
        (wq, wk, _), (bq, bk, _) = weight.chunk(3), bias.chunk(3)
        q = (x @ wq.T + bq).unflatten(-1, (heads, -1))
        k = (memory @ wk.T + bk).unflatten(-1, (heads, -1))
        gain = torch.zeros(len(x), heads, x.shape[1], memory.shape[1], dtype=torch.float64)
        for t in range(x.shape[1]):
            for s in range(memory.shape[1]):
                row = table[t - s + len(table) // 2]
                gain[:, :, t, s] = q[:, t] @ row
                if self.text["position_embedding_type"] == "relative_key_query":
                    gain[:, :, t, s] += k[:, s] @ row
        return gain / math.sqrt(len(table[0]))

    def bert_attention(self, name, x, memory, hidden):
        """attention or crossattention with the sum and the norm behind it."""
        inner = [f"{name}.self.{part}" for part in ("query", "key", "value")]
        fused = [torch.cat([self.w[f"{part}.{kind}"] for part in inner]) for kind in ("weight", "bias")]
        distances = self.w.get(f"{name}.self.distance_embedding.weight")
        heads = self.text["num_attention_heads"]
        said, maps = self.attention([*fused, f"{name}.output.dense"], heads, x, memory, hidden, distances)
        return self.norm(f"{name}.output.LayerNorm", said + x, self.text), maps

    def bert_layer(self, name, x, hidden, memory=None, memory_hidden=None):
        """One layer of RoBERTa, or with a memory one cross-modal layer: (what it says, its maps)."""
        x, own = self.bert_attention(f"{name}.attention", x, x, hidden)
        across = None
        if memory is not None:
            x, across = self.bert_attention(f"{name}.crossattention", x, memory, memory_hidden)
        thought = ACT[self.text["hidden_act"]](self.linear(f"{name}.intermediate.dense", x))
        thought = self.linear(f"{name}.output.dense", thought)
        return self.norm(f"{name}.output.LayerNorm", thought + x, self.text), own, across

    def text_states(self, ids, hidden):
        name, pad = "text_model.embeddings", self.text["pad_token_id"]
        x = self.w[f"{name}.word_embeddings.weight"][ids] + self.w[f"{name}.token_type_embeddings.weight"][0]
        if self.text["position_embedding_type"] == "absolute":
            places = [[pad if i == pad else pad + sum(j != pad for j in row[: t + 1]) for t, i in enumerate(row)]
                      for row in ids.tolist()]  # fmt: skip
            x = x + self.w[f"{name}.position_embeddings.weight"][torch.tensor(places)]
        states = [self.norm(f"{name}.LayerNorm", x, self.text)]
        for i in range(self.text["num_hidden_layers"]):
            states.append(self.bert_layer(f"text_model.encoder.layer.{i}", states[-1], hidden)[0])
        return states

    def image_states(self, pixels):
        name, config = "vision_model.visual", self.vision
        weight = self.w[f"{name}.embeddings.patch_embedding.weight"]
        patches = F.conv2d(pixels, weight, stride=config["patch_size"]).flatten(2).transpose(1, 2)
        first = self.w[f"{name}.embeddings.class_embedding"].expand(len(pixels), 1, -1)
        x = torch.cat([first, patches], 1) + self.w[f"{name}.embeddings.position_embedding.weight"]
        states = [self.norm(f"{name}.ln_pre", x, config)]
        for i in range(config["num_hidden_layers"] - config["remove_last_layer"]):
            block, x = f"{name}.transformer.resblocks.{i}", states[-1]
            fused = [self.w[f"{block}.attn.in_proj_{kind}"] for kind in ("weight", "bias")]
            parts = [*fused, f"{block}.attn.out_proj"]
            calm = self.norm(f"{block}.ln_1", x, config)
            x = x + self.attention(parts, x.shape[-1] // 64, calm, calm)[0]
            wide = self.linear(f"{block}.mlp.c_fc", self.norm(f"{block}.ln_2", x, config))
            states.append(x + self.linear(f"{block}.mlp.c_proj", wide * torch.sigmoid(1.702 * wide)))
        return states

    def transform(self, tower, x, j, token_type):
        """A tower's state in front of cross-modal layer j."""
        if tower == "image":
            x = self.norm("vision_model.visual.ln_post", x, self.vision)
        number = "" if self.top["share_cross_modal_transformer_layers"] else f".{j}"
        mark = self.w["token_type_embeddings.weight"][token_type]
        return self.linear(f"cross_modal_{tower}_transform{number}", x) + mark

    def link(self, tower, j, new, old):
        """In front of cross-modal layer j > 0."""
        name = f"cross_modal_{tower}_link_tower" + ("" if self.top["share_link_tower_layers"] else f".{j - 1}")
        kind = self.top["link_tower_type"]
        if kind == "scaled_add":
            new = new * self.w[f"{name}.scaled_factor"]
        if kind == "interpolate":
            beta = self.w[f"{name}.beta"]
            new, old = new * (1 - beta), old * beta
        return self.norm(f"{name}.LayerNorm", new + old, self.top)

    def __call__(self, input_ids, pixel_values, attention_mask):
        with torch.no_grad():
            return self.run(torch.tensor(input_ids), torch.tensor(pixel_values).double(), torch.tensor(attention_mask))

    def run(self, ids, pixels, mask):
        hidden, layers = mask == 0, self.top["num_hidden_layers"]
        texts, images = self.text_states(ids, hidden), self.image_states(pixels)
        # The last of the cross-modal layers meets the last text layer. A picture tower that is deeper goes in step with
        # the text tower; one that is not deep enough ends with it.
        last_text = len(texts) - 1
        last_image = min(last_text, len(images) - 1)
        images = images[: last_image + 1]
        pairs, own, across, text, image = [], [], [], None, None
        for j in range(layers):
            back = layers - 1 - j
            new_text = self.transform("text", texts[last_text - back], j, 0)
            new_image = self.transform("image", images[last_image - back], j, 1)
            if j == 0:
                text = self.norm("cross_modal_text_layernorm", new_text, self.top)
                image = self.norm("cross_modal_image_layernorm", new_image, self.top)
            else:
                text, image = self.link("text", j, new_text, text), self.link("image", j, new_image, image)
            of_text = self.bert_layer(f"cross_modal_text_layers.{j}", text, hidden, image, None)
            of_image = self.bert_layer(f"cross_modal_image_layers.{j}", image, None, text, hidden)
            (text, own_text, to_image), (image, own_image, to_text) = of_text, of_image
            pairs.append((text, image)), own.append((own_text, own_image)), across.append((to_image, to_text))
        ends = (("text", text), ("image", image))
        pooled = torch.cat([self.linear(f"cross_modal_{tower}_pooler.dense", x[:, 0]).tanh() for tower, x in ends], -1)
        out = dict(text_features=text, image_features=image, pooler_output=pooled)
        out["hidden_states"] = (texts, [x.transpose(0, 1) for x in images], pairs)
        out |= dict(attentions=own, cross_attentions=across)
        return out | self.heads(texts, images, text, pooled)

    def heads(self, texts, images, text, pooled):
        """What the heads that are there make of it."""
        out = {}
        if "mlm_score.bias" in self.w:
            x = ACT[self.top["hidden_act"]](self.linear("mlm_score.transform.dense", text))
            x = self.norm("mlm_score.transform.LayerNorm", x, self.top)
            tied = self.w["text_model.embeddings.word_embeddings.weight"]
            table = tied if self.top["tie_word_embeddings"] else self.w["mlm_score.decoder.weight"]
            out["fill"] = x @ table.T + self.w["mlm_score.bias"]
        if "itm_score.fc.bias" in self.w:
            out["match"] = self.linear("itm_score.fc", pooled)
        if "logit_scale" in self.w:
            image = self.transform("image", images[-1], self.top["num_hidden_layers"] - 1, 1)
            sources = (("text", texts[-1][:, 0]), ("image", image[:, 0]), ("cross_modal", pooled))
            vectors = [F.normalize(self.linear(f"itc_{name}_head.fc", x), dim=-1) for name, x in sources]
            out["contrast"] = torch.stack(vectors, 1)
            right, scale = torch.arange(len(pooled)), self.w["logit_scale"].exp()
            pairs = ((0, 1), (0, 2), (1, 2))
            out["loss"] = sum(F.cross_entropy(vectors[a] @ vectors[b].T * scale, right) for a, b in pairs) / 3
        return out
