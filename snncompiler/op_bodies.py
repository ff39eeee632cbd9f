"""The function bodies of the domain `snn`, in ONNX text.

They go into every compiled file and are what a stock onnxruntime executes; `ops.py` says in words
what each op means, `backends/numpy_ops.py` says it in NumPy, and the conformance tests hold the
three together. State (membrane potential, counts, accumulated input) is double, spikes and
currents are float. No attribute has a default: onnx.printer would drop it.
"""

# Every body unfolds [T*N, C, rest] to [T, N, C, L] (`It`), works in double and folds back.
_UNFOLD = """
  shape = Shape (I)
  channels = Shape <start: int = 1, end: int = 2> (I)
  flat = Flatten <axis: int = 2> (I)
  length = Shape <start: int = 1> (flat)
  minus = Constant <value_ints = [-1]> ()
  unfolded = Concat <axis: int = 0> (T, minus, channels, length)
  folded = Reshape (I, unfolded)
  It = Cast <to: int = 11> (folded)
  state = Shape <start: int = 1> (It)
  zeros = ConstantOfShape (state)
  Z = Cast <to: int = 11> (zeros)
"""

_THETA = """
  theta_flat = Flatten <axis: int = 1> (theta)
  th = Cast <to: int = 11> (theta_flat)
"""

BODIES = {
    "Encode": """
Encode <mode> (X, T) => (Y)
{
  shape = Shape (X)
  repeated = Concat <axis: int = 0> (T, shape)
  Xt = Expand (X, repeated)
  rest = Shape <start: int = 1> (X)
  minus = Constant <value_ints = [-1]> ()
  folded = Concat <axis: int = 0> (minus, rest)
  Y = Reshape (Xt, folded)
}
""",
    "IF": f"""
IF <gamma, gamma_neg, delay> (I, theta, v_init, T) => (S)
{{{_UNFOLD}{_THETA}
  v_flat = Flatten <axis: int = 1> (v_init)
  v_double = Cast <to: int = 11> (v_flat)
  V0 = Add (Z, v_double)
  cap_float = Constant <value_float: float = @gamma> ()
  cap = Cast <to: int = 11> (cap_float)
  back_float = Constant <value_float: float = @gamma_neg> ()
  back_double = Cast <to: int = 11> (back_float)
  back = Neg (back_double)
  wait = Constant <value_int: int = @delay> ()
  one = Constant <value_int: int = 1> ()
  t0 = Constant <value_int: int = 0> ()
  tT, VT, CT, St = Scan <num_scan_inputs: int = 1, body = step
      (int64 t, double[n,c,l] V, double[n,c,l] C, double[n,c,l] i)
      => (int64 t1, double[n,c,l] V1, double[n,c,l] C1, float[n,c,l] spikes)
    {{
      awake = GreaterOrEqual (t, wait)
      U = Add (V, i)
      q = Div (U, th)
      f = Floor (q)
      c = Clip (f, back, cap)
      sent = Neg (C)
      m = Max (c, sent)
      r = Mul (m, th)
      U1 = Sub (U, r)
      nothing = Sub (C, C)
      s = Where (awake, m, nothing)
      V1 = Where (awake, U1, V)
      C1 = Add (C, s)
      out = Mul (s, th)
      spikes = Cast <to: int = 1> (out)
      t1 = Add (t, one)
    }}> (t0, V0, Z, It)
  S = Reshape (St, shape)
}}
""",
    "LeakyIF": f"""
LeakyIF <gamma, alpha, delay> (I, theta, T) => (S)
{{{_UNFOLD}{_THETA}
  slopes = Constant <value_floats: floats = @alpha> ()
  slopes_flat = Flatten <axis: int = 1> (slopes)
  slope = Cast <to: int = 11> (slopes_flat)
  cap_float = Constant <value_float: float = @gamma> ()
  cap = Cast <to: int = 11> (cap_float)
  back = Neg (cap)
  half_float = Constant <value_float: float = 0.5> ()
  half = Cast <to: int = 11> (half_float)
  wait = Constant <value_int: int = @delay> ()
  one = Constant <value_int: int = 1> ()
  t0 = Constant <value_int: int = 0> ()
  tT, XT, CT, St = Scan <num_scan_inputs: int = 1, body = step
      (int64 t, double[n,c,l] X, double[n,c,l] C, double[n,c,l] i)
      => (int64 t1, double[n,c,l] X1, double[n,c,l] C1, float[n,c,l] spikes)
    {{
      awake = GreaterOrEqual (t, wait)
      Xi = Add (X, i)
      nothing = Sub (C, C)
      up = Max (Xi, nothing)
      down = Min (Xi, nothing)
      leak = Mul (down, slope)
      y = Add (up, leak)
      q = Div (y, th)
      h = Add (q, half)
      f = Floor (h)
      d = Sub (f, C)
      m = Clip (d, back, cap)
      s = Where (awake, m, nothing)
      X1 = Where (awake, Xi, X)
      C1 = Add (C, s)
      out = Mul (s, th)
      spikes = Cast <to: int = 1> (out)
      t1 = Add (t, one)
    }}> (t0, Z, Z, It)
  S = Reshape (St, shape)
}}
""",
    "WindowedIF": f"""
WindowedIF <gamma, layer, window> (I, theta, v_init, T) => (S)
{{{_UNFOLD}{_THETA}
  v_flat = Flatten <axis: int = 1> (v_init)
  v_double = Cast <to: int = 11> (v_flat)
  V0 = Add (Z, v_double)
  cap_float = Constant <value_float: float = @gamma> ()
  cap = Cast <to: int = 11> (cap_float)
  none_float = Constant <value_float: float = 0.0> ()
  none = Cast <to: int = 11> (none_float)
  wide = Constant <value_int: int = @window> ()
  place = Constant <value_int: int = @layer> ()
  one = Constant <value_int: int = 1> ()
  t0 = Constant <value_int: int = 0> ()
  listened = Mul (place, wide)
  begin = Sub (listened, wide)
  end = Add (listened, wide)
  tT, VT, St = Scan <num_scan_inputs: int = 1, body = step
      (int64 t, double[n,c,l] V, double[n,c,l] i)
      => (int64 t1, double[n,c,l] V1, float[n,c,l] spikes)
    {{
      begun = GreaterOrEqual (t, begin)
      full = GreaterOrEqual (t, listened)
      over = GreaterOrEqual (t, end)
      not_full = Not (full)
      not_over = Not (over)
      listens = And (begun, not_full)
      speaks = And (full, not_over)
      nothing = Sub (V, V)
      heard = Where (listens, i, nothing)
      U = Add (V, heard)
      q = Div (U, th)
      f = Floor (q)
      c = Clip (f, none, cap)
      s = Where (speaks, c, nothing)
      r = Mul (s, th)
      V1 = Sub (U, r)
      spikes = Cast <to: int = 1> (r)
      t1 = Add (t, one)
    }}> (t0, V0, It)
  S = Reshape (St, shape)
}}
""",
    "Delay": """
Delay <steps> (I, T) => (S)
{
  shape = Shape (I)
  rest = Shape <start: int = 1> (I)
  minus = Constant <value_ints = [-1]> ()
  unfolded = Concat <axis: int = 0> (T, minus, rest)
  It = Reshape (I, unfolded)
  each = Shape <start: int = 1> (It)
  steps_scalar = Constant <value_int: int = @steps> ()
  one = Constant <value_ints = [1]> ()
  from = Constant <value_ints = [0]> ()
  count = Reshape (steps_scalar, one)
  front = Concat <axis: int = 0> (count, each)
  nothing = ConstantOfShape (front)
  longer = Concat <axis: int = 0> (nothing, It)
  cut = Slice (longer, from, T, from)
  S = Reshape (cut, shape)
}
""",
    "MLIPool": """
MLIPool <kernel_shape, strides, pads, ceil_mode, dilations> (I, T) => (P)
{
  shape = Shape (I)
  rest = Shape <start: int = 1> (I)
  minus = Constant <value_ints = [-1]> ()
  unfolded = Concat <axis: int = 0> (T, minus, rest)
  folded = Reshape (I, unfolded)
  It = Cast <to: int = 11> (folded)
  axis = Constant <value_int: int = 0> ()
  C = CumSum (It, axis)
  Cf = Reshape (C, shape)
  M = MaxPool <kernel_shape: ints = @kernel_shape, strides: ints = @strides, pads: ints = @pads,
      ceil_mode: int = @ceil_mode, dilations: ints = @dilations> (Cf)
  pooled = Shape (M)
  pooled_rest = Shape <start: int = 1> (M)
  pooled_unfolded = Concat <axis: int = 0> (T, minus, pooled_rest)
  Mt = Reshape (M, pooled_unfolded)
  from = Constant <value_ints = [0]> ()
  one = Constant <value_ints = [1]> ()
  earlier = Slice (Mt, from, minus, from)
  first = Slice (Mt, from, one, from)
  nothing = Sub (first, first)
  before = Concat <axis: int = 0> (nothing, earlier)
  D = Sub (Mt, before)
  Df = Reshape (D, pooled)
  P = Cast <to: int = 1> (Df)
}
""",
    "TwinSynapse": f"""
TwinSynapse <gamma, allowance> (I, theta, T) => (S)
{{{_UNFOLD}{_THETA}
  cap_float = Constant <value_float: float = @gamma> ()
  cap = Cast <to: int = 11> (cap_float)
  beta_float = Constant <value_float: float = @allowance> ()
  beta = Cast <to: int = 11> (beta_float)
  one_float = Constant <value_float: float = 1.0> ()
  one = Cast <to: int = 11> (one_float)
  none_float = Constant <value_float: float = 0.0> ()
  none = Cast <to: int = 11> (none_float)
  tT, FT, LT, NT, St = Scan <num_scan_inputs: int = 1, body = step
      (double t0, double[n,c,l] F, double[n,c,l] L, double[n,c,l] N, double[n,c,l] i)
      => (double t, double[n,c,l] F1, double[n,c,l] L1, double[n,c,l] N1, float[n,c,l] spikes)
    {{
      t = Add (t0, one)
      q = Div (i, th)
      s = Round (q)
      fires = Greater (s, none)
      more = Add (F, one)
      F1 = Where (fires, more, F)
      still = Sub (L, L)
      now = Add (still, t)
      L1 = Where (fires, now, L)
      silence = Sub (t, L1)
      excess = Sub (silence, beta)
      weighted = Mul (excess, F1)
      late = Greater (weighted, L1)
      available = Greater (N, none)
      quiet = LessOrEqual (s, none)
      late_quiet = And (late, quiet)
      cancels = And (late_quiet, available)
      amount = Min (N, cap)
      negative = Neg (amount)
      wanted = Where (cancels, negative, s)
      floor = Neg (N)
      x = Max (wanted, floor)
      N1 = Add (N, x)
      out = Mul (x, th)
      spikes = Cast <to: int = 1> (out)
    }}> (none, Z, Z, Z, It)
  S = Reshape (St, shape)
}}
""",
    "Readout": """
Readout <mode, start> (I, T) => (Y)
{
  rest = Shape <start: int = 1> (I)
  minus = Constant <value_ints = [-1]> ()
  unfolded = Concat <axis: int = 0> (T, minus, rest)
  folded = Reshape (I, unfolded)
  It = Cast <to: int = 11> (folded)
  first = Constant <value_int: int = @start> ()
  zero = Constant <value_ints = [0]> ()
  one = Constant <value_ints = [1]> ()
  start = Reshape (first, one)
  heard = Slice (It, start, T, zero)
  total = ReduceSum <keepdims: int = 0> (heard, zero)
  after = Sub (T, start)
  steps = Max (after, one)
  wanted = Constant <value_string: string = @mode> ()
  mean = Constant <value_string = "mean"> ()
  is_mean = Equal (wanted, mean)
  divisor_int = Where (is_mean, steps, one)
  divisor = Cast <to: int = 11> (divisor_int)
  quotient = Div (total, divisor)
  Y = Cast <to: int = 1> (quotient)
}
""",
}
