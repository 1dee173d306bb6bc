from torch import nn
class FoldedConvolution(nn.Module):
    @classmethod
    def of(cls, node, fold, fq):
        raise NotImplementedError
