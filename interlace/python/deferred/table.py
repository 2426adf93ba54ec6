"""Which modules wait, and what stands for the names that others take out of them at once. A name that is not here, and
one that a later version of a library moves, is looked up for real.
"""

from collections.abc import Mapping

from interlace.python.deferred.stand_ins import Exempt, Later, Noting, Truth, Unmade, UnmadeWithin

Kinds = Mapping[str, type[Later]]

MODULES: dict[str, Kinds] = {
    # by diffusers.utils.torch_utils and transformers.generation
    "torch._dynamo": {
        "allow_in_graph": Noting,
        "assume_constant_result": Noting,
        "disable": Exempt,
        "eval_frame": UnmadeWithin,
    },
    "torch._dynamo._trace_wrapped_higher_order_op": {"TransformGetItemToIndex": Later},  # transformers.masking_utils
    # by diffusers' hooks and loaders and by the engine's adapters, for whom it matters once there is an adapter
    "peft": {
        "LoHaConfig": Later,
        "PeftConfig": Later,
        "PeftModel": Unmade,
        "inject_adapter_in_model": Later,
        "set_peft_model_state_dict": Later,
    },
    "peft.helpers": {"disable_input_dtype_casting": Later},
    "peft.tuners": {},
    "peft.tuners.lora": {},
    "peft.tuners.lora.layer": {"LoraLayer": Unmade},
    "peft.tuners.tuners_utils": {"BaseTunerLayer": Unmade},
    "peft.utils": {"ModulesToSaveWrapper": Unmade},
    # by transformers, for models over several devices
    "torch.distributed._composable.fsdp": {"fully_shard": Later},
    "torch.distributed.checkpoint": {},
    "torch.distributed.checkpoint.hf_storage": {"HuggingFaceStorageReader": Later, "HuggingFaceStorageWriter": Later},
    "torch.distributed.fsdp": {"CPUOffloadPolicy": Later, "MixedPrecisionPolicy": Later},
    "torch.distributed.tensor": {"DTensor": Unmade, "Shard": Unmade},
    "torch.distributed.tensor._utils": {"compute_local_shape_and_global_offset": Later},
    "torch.distributed.tensor.placement_types": {"Shard": Unmade, "_StridedShard": Unmade},
    "transformers.distributed.expert_parallel": {"apply_expert_parallelism": Later},
    "transformers.distributed.parallel_utils": {
        "ALL_PARALLEL_STYLES": Later,
        "_get_parameter_plan": Later,
        "replace_layer_number_by_wildcard": Later,
    },
    "transformers.distributed.tensor_parallel": {
        "apply_tensor_parallelism": Later,
        "gather_state_dict_for_save": Later,
        "get_kv_heads_per_rank": Later,
        "verify_tp_plan": Later,
    },
    "torch.fx.experimental.symbolic_shapes": {"expect_true": Truth},  # by torch's own checks, of plain conditions too
    "scipy.stats": {},  # by diffusers' schedulers
    "scipy.integrate": {},
    "scipy.optimize": {"linear_sum_assignment": Later},  # by transformers' losses of object detection
    "boto3": {},  # by accelerate
    "diffusers.quantizers.torchao": {"TorchAoHfQuantizer": Later},
    "transformers.quantizers.quantizer_torchao": {"TorchAoHfQuantizer": Later},
    "diffusers.quantizers.gguf": {"GGUFQuantizer": Later},
}
# What is run with a module, as it writes into what that one holds.
COMPANIONS = {
    "transformers.distributed.parallel_utils": (
        "transformers.distributed.expert_parallel",
        "transformers.distributed.tensor_parallel",
    ),
}
