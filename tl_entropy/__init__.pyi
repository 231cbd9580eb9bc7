"""The public names, once: type checkers and editors read them here, and ``__init__.py`` imports each when it is first used."""

from . import functional as functional, plots as plots
from .analyses.heads.entropy import HeadAccumulator as HeadAccumulator, head_entropy as head_entropy
from .analyses.information.assignments import Assignments as Assignments, load_assignments as load_assignments
from .analyses.information.plain import StateInformation as StateInformation
from .analyses.information.soft import label_plan as label_plan, soft_information as soft_information
from .analyses.information.sums import SoftAccumulator as SoftAccumulator
from .analyses.lens.direction import read_direction as read_direction
from .analyses.lens.divergence import DivergenceAccumulator as DivergenceAccumulator, layer_divergence as layer_divergence
from .analyses.lens.entropy import LensAccumulator as LensAccumulator, lens_entropy as lens_entropy
from .analyses.lens.training import train_tuned_lens as train_tuned_lens
from .analyses.means import head_means as head_means, site_means as site_means
from .analyses.models.accumulators import load_accumulator as load_accumulator
from .analyses.models.comparison import compare_models as compare_models
from .analyses.models.monitor import EntropyMonitor as EntropyMonitor
from .analyses.models.neurons import neurons as neurons
from .analyses.models.placebo import placebo as placebo
from .analyses.models.sensitivity import sensitivity as sensitivity
from .analyses.profiles.distances import pairwise_distances as pairwise_distances, profile_distance as profile_distance
from .analyses.profiles.dynamics import layer_dynamics as layer_dynamics
from .analyses.profiles.embedding import profile_embedding as profile_embedding
from .analyses.sharing import alone as alone
from .analyses.states.cka import CKAAccumulator as CKAAccumulator
from .analyses.states.geometry import GeometryAccumulator as GeometryAccumulator, layer_geometry as layer_geometry
from .analyses.states.matrix_similarity import MatrixAccumulator as MatrixAccumulator
from .analyses.states.memories import Memories as Memories, memories as memories
from .analyses.states.neighbours import NeighbourAccumulator as NeighbourAccumulator
from .analyses.states.similarity import layer_similarity as layer_similarity
from .analyses.tokens.alignment import align_tokens as align_tokens, token_correlation as token_correlation
from .analyses.tokens.calibration import entropy_calibration as entropy_calibration
from .analyses.tokens.confidence import ConfidenceAccumulator as ConfidenceAccumulator, confidence as confidence
from .analyses.tokens.discrimination import discriminate as discriminate, span_features as span_features
from .analyses.tokens.gradient_reliance import (
    GradientRelianceAccumulator as GradientRelianceAccumulator,
    gradient_reliance as gradient_reliance,
)
from .analyses.tokens.reliance import RelianceAccumulator as RelianceAccumulator, token_reliance as token_reliance
from .analyses.tokens.sequence_loss import conditional_entropy as conditional_entropy
from .analyses.tokens.surprisal import SurprisalAccumulator as SurprisalAccumulator, token_surprisal as token_surprisal
from .analyses.tokens.unigram import UnigramAccumulator as UnigramAccumulator, unigram_distance as unigram_distance
from .capture.ablation import ablate_heads as ablate_heads, ablate_neurons as ablate_neurons
from .capture.adapter import Adapter as Adapter
from .capture.interventions import Intervention as Intervention, ablate as ablate, steer as steer
from .capture.loading import load_model as load_model
from .capture.occlusion import mask_attention as mask_attention, occlude as occlude
from .capture.options import (
    CorpusOptions as CorpusOptions,
    EditOptions as EditOptions,
    WindowOptions as WindowOptions,
)
from .capture.positions import AtPositions as AtPositions
from .capture.quantising import add_noise as add_noise, quantize as quantize
from .capture.report import StreamReport as StreamReport
from .capture.stream import stream as stream
from .demo import demo_lens as demo_lens, demo_model as demo_model, demo_names as demo_names, demo_texts as demo_texts
from .errors import (
    FileError as FileError,
    InputError as InputError,
    InputTypeError as InputTypeError,
    ModelError as ModelError,
    NonFiniteError as NonFiniteError,
    SaveError as SaveError,
    TLEntropyError as TLEntropyError,
)
from .estimation.config import EstimationConfig as EstimationConfig
from .estimation.history import TrainingHistory as TrainingHistory
from .estimation.models import EstimationModel as EstimationModel, estimation_model as estimation_model
from .estimation.sweep import memory_sweep as memory_sweep
from .estimation.training import train_estimation as train_estimation
from .labels import LabelPlan as LabelPlan, SpanLabels as SpanLabels, ngram as ngram, span_labels as span_labels
from .lenses.files import load_tuned_lens as load_tuned_lens
from .lenses.jacobian import JacobianLens as JacobianLens, load_jacobian_lens as load_jacobian_lens
from .lenses.tuned import TunedLens as TunedLens
from .results import (
    LensEntropy as LensEntropy,
    LensSummary as LensSummary,
    Placebo as Placebo,
    Provenance as Provenance,
    SoftInformation as SoftInformation,
    load as load,
)
from .results.heads.entropy import HeadEntropy as HeadEntropy, HeadSummary as HeadSummary
from .results.lens.divergence import DivergenceSummary as DivergenceSummary, LayerDivergence as LayerDivergence
from .results.models.comparison import ModelComparison as ModelComparison
from .results.models.contrast import Contrast as Contrast, contrast as contrast
from .results.models.memory_sweep import MemorySweep as MemorySweep
from .results.models.monitor import EntropyHistory as EntropyHistory
from .results.models.neurons import NeuronEffects as NeuronEffects
from .results.models.run import RunResults as RunResults
from .results.models.sensitivity import Sensitivity as Sensitivity
from .results.profiles.distances import PairwiseDistances as PairwiseDistances, ProfileDistance as ProfileDistance
from .results.profiles.dynamics import LayerDynamics as LayerDynamics
from .results.profiles.embedding import ProfileEmbedding as ProfileEmbedding
from .results.states.geometry import LayerGeometry as LayerGeometry
from .results.states.similarity import LayerSimilarity as LayerSimilarity
from .results.tokens.calibration import EntropyCalibration as EntropyCalibration
from .results.tokens.conditional import ConditionalEntropy as ConditionalEntropy
from .results.tokens.correlation import AlignedValues as AlignedValues, TokenCorrelation as TokenCorrelation
from .results.tokens.features import Discrimination as Discrimination, SpanFeatures as SpanFeatures
from .results.tokens.reliance import TokenReliance as TokenReliance
from .results.tokens.site_values import Confidence as Confidence, SiteMeans as SiteMeans, UnigramDistance as UnigramDistance
from .results.tokens.stimuli import Stimuli as Stimuli, read_stimuli as read_stimuli
from .results.tokens.surprisal import SurprisalSummary as SurprisalSummary, TokenSurprisal as TokenSurprisal
from .results.tokens.words import WordSurprisal as WordSurprisal
from .runs.running import run as run
from .sites import Site as Site

__version__: str
