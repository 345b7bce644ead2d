"""Tiny text-to-image pipelines of four families, built from config with random weights."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WORDS = [
    "<pad>",
    "</s>",
    "<s>",
    "<unk>",
    *["a", "red", "green", "blue", "circle", "square", "on", "white", "black", "left", "of", "and", "two"],
]
LISTENS = ("attn2.to_v.weight", "attn2.to_out.0.weight", "add_v_proj.weight", "context_embedder.weight")
LENGTH = 8  # tokens that the CLIP tokenizers keep


def tokenizer(starts: bool) -> PreTrainedTokenizerFast:
    """Word-level, lower case not folded; ``starts`` puts a start token in front, as CLIP does and T5 does not."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if starts else "$A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=LENGTH if starts else 512,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
    )


def clip(kind: type = CLIPTextModel, act: str = "quick_gelu"):
    config = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=16,
        eos_token_id=1,
        bos_token_id=2,
        pad_token_id=0,
        hidden_act=act,
    )
    return kind(config)


def t5():
    return T5EncoderModel(T5Config(vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def vae(channels: int = 4):
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=4,
        shift_factor=0.0,
    )


def unet(**settings):
    return UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **settings,
    )


def stable_diffusion():
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=tokenizer(True),
        unet=unet(cross_attention_dim=16),
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl():
    time_ids = 6 * 8
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(),
        text_encoder_2=clip(CLIPTextModelWithProjection, "gelu"),
        tokenizer=tokenizer(True),
        tokenizer_2=tokenizer(True),
        unet=unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + time_ids,
        ),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False),
    )


def pixart():
    return PixArtAlphaPipeline(
        tokenizer=tokenizer(False),
        text_encoder=t5(),
        vae=vae(),
        transformer=PixArtTransformer2DModel(
            sample_size=4,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=32,
            cross_attention_dim=16,
            in_channels=4,
            out_channels=8,
            use_additional_conditions=False,
        ),
        scheduler=DPMSolverMultistepScheduler(),
    )


def flux(guidance_embeds: bool = True):
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(),
        text_encoder=clip(),
        tokenizer=tokenizer(True),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(False),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance_embeds,
        ),
    )


def sd3():
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=4,
            patch_size=1,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            out_channels=4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(),
        text_encoder=clip(CLIPTextModelWithProjection),
        tokenizer=tokenizer(True),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer_2=tokenizer(True),
        text_encoder_3=t5(),
        tokenizer_3=tokenizer(False),
    )


def lcm():
    """A family whose text encoding the adapter does not know."""
    return LatentConsistencyModelPipeline(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=tokenizer(True),
        unet=unet(cross_attention_dim=16, time_cond_proj_dim=8),
        scheduler=LCMScheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


FAMILIES = {"sd": stable_diffusion, "sdxl": sdxl, "pixart": pixart, "flux": flux, "sd3": sd3, "lcm": lcm}


def save(family: str, folder: Path) -> Path:
    """A pipeline with the same weights at every call, as from_pretrained reads it."""
    torch.manual_seed(0)
    pipe = FAMILIES[family]()
    with torch.no_grad():  # fresh weights hardly listen to the text: make it loud
        for net in (getattr(pipe, "unet", None), getattr(pipe, "transformer", None)):
            for name, weight in net.named_parameters() if net else ():
                if name.endswith(LISTENS):
                    weight.mul_(8)
    pipe.save_pretrained(folder)
    return folder
