"""The TensorFlow operators that may run when a SavedModel is loaded and traced; everything else is refused.

What is here computes on values that it is given: what TFLite's converter lowers, and the plumbing of constants,
variables, calls and branches. What reaches outside the model (files, sockets, other devices, Python, other processes),
what never ends by itself and what TFLite could not lower anyway is absent. An operator that is missing and harmless is
one word to add.
"""

from __future__ import annotations

_PLUMBING = """
Assert Const Enter Exit Fill FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel
Identity IdentityN If Merge NoOp OnesLike PartitionedCall Placeholder PlaceholderWithDefault PreventGradient
StatefulPartitionedCall StatelessIf StatelessWhile StopGradient Switch CheckNumerics EnsureShape While ZerosLike
Snapshot _Arg _Retval
"""

_VARIABLES = """
Assign AssignVariableOp IsVariableInitialized ReadVariableOp VarHandleOp VarIsInitializedOp Variable VariableShape
VariableV2 ResourceGather ResourceGatherNd TemporaryVariable
"""

_ARITHMETIC = """
Cholesky MatrixDeterminant MatrixInverse MatrixSolve MatrixTriangularSolve
Abs Acos Acosh Add AddN AddV2 Angle ApproximateEqual Asin Asinh Atan Atan2 Atanh BiasAdd BiasAddV1 BitwiseAnd
BitwiseOr BitwiseXor Cast Ceil ClipByValue Complex ComplexAbs Conj Cos Cosh Cross Cumprod Cumsum CumulativeLogsumexp
Div DivNoNan Digamma Equal Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual Imag Inv Invert
IsFinite IsInf IsNan LeftShift Less LessEqual Lgamma LinSpace Log Log1p LogicalAnd LogicalNot LogicalOr Maximum
Minimum Mod Mul MulNoNan Ndtri Neg NextAfter NotEqual Polygamma Pow Range Real RealDiv Reciprocal RightShift Rint
Round Rsqrt Sigmoid Sign Sin Sinh Sqrt Square SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlog1py
Xlogy Zeta
"""

_REDUCTIONS = """
All Any ArgMax ArgMin Bincount Bucketize DenseBincount EuclideanNorm Max Mean Min Prod SegmentMax SegmentMean SegmentMin
SegmentProd SegmentSum Sum TopK TopKV2 Unique UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd
UnsortedSegmentSum
"""

_LAYERS = """
AvgPool AvgPool3D BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchNormWithGlobalNormalization Conv2D Conv2DBackpropInput
Conv3D Conv3DBackpropInputV2 DepthwiseConv2dNative Dilation2D Einsum Elu FusedBatchNorm FusedBatchNormV2
FusedBatchNormV3 L2Loss LeakyRelu LRN LogSoftmax MatMul MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax MirrorPad Pad
PadV2 Relu Relu6 Selu Softmax Softplus Softsign CropAndResize ExtractImagePatches ResizeArea ResizeBicubic
ResizeBilinear ResizeNearestNeighbor ScaleAndTranslate ImageProjectiveTransformV2 ImageProjectiveTransformV3
AdjustContrastv2 AdjustHue AdjustSaturation HSVToRGB RGBToHSV Conv _FusedConv2D _FusedMatMul FFT FFT2D IFFT IFFT2D
IRFFT IRFFT2D RFFT RFFT2D SparseMatMul SparseTensorDenseMatMul
"""

_SHAPES = """
BatchToSpace BatchToSpaceND Bitcast BroadcastArgs BroadcastTo Concat ConcatOffset ConcatV2 DepthToSpace Diag DiagPart
ExpandDims Gather GatherNd GatherV2 InvertPermutation MatrixBandPart MatrixDiag MatrixDiagPart MatrixDiagPartV2
MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 OneHot Pack
ParallelDynamicStitch DynamicStitch Rank Reshape Reverse ReverseSequence ReverseV2 Roll ScatterNd Select SelectV2
Shape ShapeN Size Slice SpaceToBatch SpaceToBatchND SpaceToDepth Split SplitV Squeeze StridedSlice TensorScatterAdd
TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate Tile Transpose Unpack Where TensorListConcatV2
TensorListElementShape TensorListFromTensor TensorListGather TensorListGetItem TensorListLength TensorListPopBack
TensorListPushBack TensorListReserve TensorListResize TensorListSetItem TensorListStack EmptyTensorList
"""

_RANDOM = """
RandomStandardNormal RandomUniform RandomUniformInt StatelessRandomGetAlg StatelessRandomGetKeyCounter
RngReadAndSkip StatelessRandomNormalV2 StatelessRandomUniformV2 TruncatedNormal StatelessRandomUniformFullIntV2
Multinomial RandomGamma RandomShuffle StatelessMultinomial StatelessRandomBinomial StatelessRandomGammaV3
StatelessRandomUniformIntV2 StatelessShuffle StatelessTruncatedNormalV2
"""
"""They only compute, so they may load; that a random encoder is not exported is said by another message."""

_TABLES = """
DestroyResourceOp InitializeTable InitializeTableFromTextFile InitializeTableFromTextFileV2 InitializeTableV2
LookupTableImport LookupTableImportV2 MutableHashTableV2
"""
"""What fills tables of labels beside the encoder."""

_LOOKUPS = "HashTable HashTableV2 LookupTableFind LookupTableFindV2 LookupTableSize LookupTableSizeV2"
"""What names and reads such a table, in a signature that gives a label beside the embedding."""

COMPUTING = frozenset(
    " ".join((_PLUMBING, _VARIABLES, _ARITHMETIC, _REDUCTIONS, _LAYERS, _SHAPES, _RANDOM, _LOOKUPS)).split()
) - {"Enter", "Exit"}
"""Operators allowed in a signature."""

INITIALIZING = COMPUTING | frozenset(_TABLES.split())
"""Operators allowed in an initializer, and in what makes and removes a resource."""

RESTORING = INITIALIZING | {"Restore", "RestoreSlice", "RestoreV2"}
"""Operators allowed in the restore call."""

SAVING = COMPUTING | {"LookupTableExport", "LookupTableExportV2"}
"""Operators allowed in what tells an object's tensors, which runs before they are restored."""

FILE_INPUT = {
    "Restore": 0,
    "RestoreSlice": 0,
    "RestoreV2": 0,
    "InitializeTableFromTextFile": 1,
    "InitializeTableFromTextFileV2": 1,
}
"""Which input names a file: it has to be what the loader feeds (variables, an asset), never what the graph chose."""

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
LOOPS = frozenset({"While", "StatelessWhile"})
