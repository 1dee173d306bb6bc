"""A configuration to start from: every setting once, commented out, with what it does."""

TEMPLATE = """\
# What quantonnx shall do with a model: `quantonnx quantize MODEL --config THIS`.
# What is left out is left to the target. `quantonnx config show MODEL --config THIS` prints what comes of it.
# Levels, each over the one before: the target, preset, activation/weight/bias, op_types, patterns, op_names, modules,
# tensors. A level that says nothing about something leaves it to the one before; null switches off.
# Names are exact, or re:REGEX. A rule that matches nothing is an error, unless it says `optional: true`.

# A named set of values beneath all others: w8a8, w8a16 (16-bit integer activations), w4a8, w4a16 (weights alone: int4
# in groups of 128), w8, w4 (weights alone), fp8, xint8 (powers of two), qnn-u16.
#preset: w8a8

#activation:
#  n_bits: 8                  # 2 to 16; or dtype: int8, uint8, int16, uint16, float8e4m3fn
#  symmetric: false           # zero point 0 and signed codes, unless `signed` says otherwise
#  calibration_method: mse    # minmax, moving_average[:0.01], percentile[:99.99], entropy, mse, auto
#  min_range: 0.0001          # no range is narrower
#  dynamic: true              # range and scale are found while the model runs (ONNX Runtime)

#weight:                      # null: no weight is quantized
#  n_bits: 4
#  calibration_method: mse    # clips where rounding and clipping together lose least, not minmax
#  per_channel: true          # one scale for each output channel
#  group_size: 128            # or one for each so many values that are summed up
#  narrow_range: true         # -7 to 7, not -8 to 7
#  scale_type: power_of_two   # or float16, float
#  rounding: stochastic       # or half_even, half_away, floor
#  seed: 1
#  storage: native            # int4 in the file; narrowed (int8 with few codes) keeps integer kernels

#bias: null                   # biases stay in float

#op_types:
#  Softmax: null              # not quantized, nor what it is fused with
#  Add:
#    inputs: {0: {n_bits: 16}, "*": {}}      # by index, by the name in ONNX's specification, or * for all others
#  Conv:
#    outputs: {"*": {n_bits: 8}}             # a pair behind every Conv, whatever the target declares
#    states: {weight: {n_bits: 4}, bias: null}

#patterns:
#  ConvBNAddRelu:
#    qdq_points: [INPUT, WEIGHT]             # other points than the target's
#    inputs: {residual: null}                # by the names that the pattern declares

#op_names:
#  re:^/head/: null
#  conv1: {states: {weight: {n_bits: 8}}, optional: true}

#modules:                                    # scopes of the exported network, as one thing: their boundary is meant
#  encoder.layer.0:
#    inputs: {0: {n_bits: 16}}
#    outputs: {"*": {n_bits: 16}}

#tensors:
#  logits: null
#  image: {scale: 0.00392, zero_point: 0}    # or range: [0, 1]
#  branch: {share_with: trunk}

#known_ranges: {Softmax: [0, 1]}             # results of operators that need no samples

#exclude: [re:^/stem/]                       # operators left in float, with all that they are fused with
#skip: {stub: [], weight: [], smooth: []}    # only their activations, their weights, their smoothing
#recipe:                                     # algorithms that change weights, in the order in which they run
#  - equalize
#  - absorb_biases                         # what channels never fall below moves into the next bias
#  - smooth_quant: {alpha: auto}           # or a number: how much goes from activations into weights
#  - scale_inputs: {least_gain: 3}         # onnxruntime does this where no recipe is given
#  - absorb_biases
#  - awq: {clip: true}                      # these three choose codes by what samples show
#  - gptq: {damp_percent: 0.01, static_groups: true}
#  - adaround: {search: descent}
#smooth_quant: {alpha: 0.5}                  # short for a first step of that name
#bias_correction: true
#shift_limits: false                         # power-of-two scales within the shifts of an XINT8 processor
#weight_storage: integer                     # or float: weights with a Q/DQ pair
#contrib_ops: false                          # 16 bits below opset 21, with com.microsoft's operators
#keep_slow: false                            # quantize where float is estimated faster, too
"""
