"""Constructors that read values or random numbers in ways that pass torch's dispatcher by.

As in `nasty_looks.py`, whose `Net.__init__` these are bodies of.
"""

from __future__ import annotations

from tests.model.nasty import BOTH
from tests.model.nasty_looks import META, ONES, sources

_S = "nn.init.ones_(s); "

_BODIES = {
    # --- bytes
    "saved to a buffer": (BOTH, "f = io.BytesIO(); torch.save(w, f); self.width(len(f.getvalue()) // 1000)"),
    "a small one, saved": (META, "f = io.BytesIO(); torch.save(s, f); self.width(len(f.getvalue()))"),
    "saved and loaded": (
        BOTH,
        ONES + "f = io.BytesIO(); torch.save(w, f); f.seek(0); self.width(torch.load(f)[0, 0].item() + 1)",
    ),
    "a state dict, saved": (
        BOTH,
        ONES + "f = io.BytesIO(); torch.save(self.state_dict(), f); self.width(f.getvalue().count(b'\\x80?') // 1000)",
    ),
    "the module, pickled": (BOTH, ONES + "self.width(pickle.dumps(self.first).count(b'\\x80?') // 1000)"),
    "pickled": (BOTH, ONES + "self.width(pickle.dumps(w).count(b'\\x80?') // 1000)"),
    "pickled by its own method": (
        BOTH,
        ONES + "self.width(w.detach().__reduce_ex__(2)[1][0]._untyped_storage[2])",
    ),
    "a small one, pickled": (META, _S + "self.width(pickle.dumps(s).count(b'\\x80?'))"),
    "pickled for a process": (
        BOTH,
        "from multiprocessing.reduction import ForkingPickler as P; self.width(len(bytes(P.dumps(w.detach()))))",
    ),
    "hashed": (
        BOTH,
        ONES + "import hashlib; self.width(hashlib.sha256(w.detach().numpy().tobytes()).digest()[0])",
    ),
    "a small one, hashed": (
        META,
        _S + "import hashlib; self.width(hashlib.sha256(s.detach().numpy().tobytes()).digest()[0])",
    ),
    "bytes of the storage": (BOTH, ONES + "self.width(w.untyped_storage()[2])"),
    "typed storage": (BOTH, ONES + "self.width(w.storage()[0] + 1)"),
    "inner typed storage": (BOTH, ONES + "self.width(w._typed_storage()[0] + 1)"),
    "read by ctypes": (
        BOTH,
        ONES + "import ctypes; self.width(ctypes.cast(w.data_ptr(), ctypes.POINTER(ctypes.c_float))[5] + 1)",
    ),
    "a small one, read by ctypes later": (
        BOTH,
        """
        import ctypes
        t = torch.zeros(2)
        p = ctypes.cast(t.data_ptr(), ctypes.POINTER(ctypes.c_float))
        t.copy_(nn.init.ones_(w)[0, :2])
        self.width(p[0] + 1)
        """,
    ),
    # --- memory that numpy has too
    "an alias of numpy's": (
        BOTH,
        "a = np.zeros(2, 'float32'); torch.from_numpy(a).copy_(nn.init.ones_(w)[0, :2]); self.width(a[0] + 1)",
    ),
    "a large alias of numpy's": (
        "uninitialized",
        "a = np.zeros((BIG, BIG)); torch.from_numpy(a).fill_(2); self.width(a[0, 0])",
    ),
    "an alias by as_tensor": (
        "uninitialized",
        "a = np.zeros((BIG, BIG)); torch.as_tensor(a, device='cpu').add_(2); self.width(a[0, 0])",
    ),
    "numpy's alias of a small one": (
        BOTH,
        "t = torch.zeros(2); a = t.numpy(); t += nn.init.ones_(w)[0, :2].detach(); self.width(a[0] + 1)",
    ),
    "numpy's array of a small one": (
        BOTH,
        "t = torch.zeros(2); a = np.asarray(t); t += nn.init.ones_(w)[0, :2].detach(); self.width(a[0] + 1)",
    ),
    "dlpack's alias": (
        BOTH,
        "t = torch.zeros(2); a = np.from_dlpack(t); t += nn.init.ones_(w)[0, :2].detach(); self.width(a[0] + 1)",
    ),
    "torch's alias by dlpack": (
        BOTH,
        ONES + "a = torch.from_dlpack(w.detach()); self.width(a[0, 0].item() + 1)",
    ),
    "numpy's alias by dlpack": (BOTH, ONES + "self.width(np.from_dlpack(w.detach())[0, 0] + 1)"),
    "an old capsule": (
        BOTH,
        ONES + "import torch.utils.dlpack as d; self.width(d.from_dlpack(d.to_dlpack(w.detach()))[0, 0].item() + 1)",
    ),
    "a buffer": (
        BOTH,
        "b = bytearray(8); torch.frombuffer(b, dtype=torch.float32).copy_(nn.init.ones_(w)[0, :2]); self.width(b[3])",
    ),
    "a storage of both": (
        BOTH,
        "t = torch.zeros(2); x = t.untyped_storage(); t.copy_(nn.init.ones_(w)[0, :2]); self.width(x[3])",
    ),
    "shared with processes": (BOTH, ONES + "t = w.detach(); t.share_memory_(); self.width(t[0, 0].item() + 1)"),
    "a module shared": (BOTH, ONES + "self.first.share_memory(); self.width(w[0, 0].item() + 1)"),
    "numpy by force": (BOTH, ONES + "self.width(w.numpy(force=True)[0, 0] + 1)"),
    "numpy of a view": (BOTH, ONES + "self.width(w.detach()[3:4, 2:3].numpy()[0, 0] + 1)"),
    "an array of it": (BOTH, ONES + "self.width(np.array(w.detach())[0, 0] + 1)"),
    "an array of a list": (BOTH, ONES + "self.width(np.array([w.detach()[0, 0]])[0] + 1)"),
    "numpy's own function": (BOTH, ONES + "self.width(np.add(w.detach()[0, :3], 1)[0])"),
    # --- values in other clothes
    "a list by keyword": (BOTH, ONES + "self.width(torch.tensor(data=[w.detach()[0, 0]]).sum() + 1)"),
    "a list in a list": (BOTH, ONES + "self.width(torch.tensor([[w.detach()[0, 0]], [2]]).sum())"),
    "a tuple": (BOTH, ONES + "self.width(torch.as_tensor((w.detach()[0, 0], 2.0)).sum())"),
    "a legacy list": (BOTH, ONES + "self.width(torch.FloatTensor([w.detach()[0, 0]]).sum() + 1)"),
    "a legacy list of Tensor": (BOTH, ONES + "self.width(torch.Tensor([w.detach()[0, 0]]).sum() + 1)"),
    "new_tensor": (BOTH, ONES + "self.width(s.new_tensor([w.detach()[0, 0]]).sum() + 1)"),
    "new": (BOTH, ONES + "self.width(torch.ones(2).new([w.detach()[0, 0]]).sum() + 1)"),
    "full": (BOTH, ONES + "self.width(torch.full((2,), w.detach()[0, 0]).sum())"),
    "applied": (BOTH, ONES + "x = []; w.detach().apply_(lambda v: x.append(v) or v); self.width(x[0] + 1)"),
    "mapped": (
        BOTH,
        ONES + "x = []; w.detach().map_(w.detach(), lambda a, b: x.append(a) or b); self.width(x[0] + 1)",
    ),
    "iterated": (BOTH, ONES + "self.width([float(v) for v in w[0]][3] + 1)"),
    "contained": (BOTH, ONES + "self.width(1.0 in w)"),
    "compared": (BOTH, ONES + "self.width(torch.equal(w, torch.ones(BIG, BIG)))"),
    "close": (BOTH, ONES + "self.width(torch.allclose(w, torch.ones(BIG, BIG)))"),
    "an index": (BOTH, ONES + "self.width([5, 6][w[0, 0].long()])"),
    "a range": (BOTH, ONES + "self.width(len(range(w[0, 0].long() + 3)))"),
    "rounded": (BOTH, ONES + "self.width(round(w[0, 0].item()) + 1)"),
    "math": (BOTH, ONES + "self.width(math.floor(w[0, 0]) + 1)"),
    "formatted": (BOTH, ONES + "self.width(len(f'{w[0, 0]:.3f}'))"),
    "shown": (BOTH, ONES + "self.width(len(repr(w[:1, :2])))"),
    "sorted": (BOTH, ONES + "self.width(sorted([w[0, 0].detach(), torch.tensor(0.5)])[0].item() * 4)"),
    "the greatest": (BOTH, ONES + "self.width(max(w[0, 0].detach(), torch.tensor(0.5)).item() + 1)"),
    "unique": (BOTH, ONES + "self.second = nn.Parameter(torch.unique(w.detach()))"),
    "counted": (BOTH, ONES + "self.second = nn.Parameter(torch.bincount(w.detach().long().view(-1)).float())"),
    "sparse": (BOTH, ONES + "self.second = nn.Parameter(w.detach().to_sparse().values())"),
    "a small one, sparse": (META, _S + "self.second = nn.Parameter(s.detach().to_sparse().values())"),
    "repeated": (
        META,
        "self.second = nn.Parameter(torch.repeat_interleave(torch.ones(2), torch.tensor([2, 3])))",
    ),
    "one hot": (META, "self.second = nn.Parameter(F.one_hot(torch.tensor([3])).float())"),
    "split by a tensor": (
        META,
        "self.second = nn.Parameter(torch.tensor_split(torch.ones(5), torch.tensor([2]))[0].clone())",
    ),
    "scripted, by value": (META, "self.width(torch.jit.script(_valued)(s.detach().fill_(1)) + 1)"),
    "scripted, of a large one": (BOTH, ONES + "self.width(torch.jit.script(_valued)(w.detach()) + 1)"),
    "gradients": (
        BOTH,
        ONES + "self.first(torch.ones(1, BIG)).sum().backward(); self.width(w.grad[0, 0].item() + 1)",
    ),
    "a hook's value": (
        BOTH,
        """
        x = []
        t = torch.ones(2, requires_grad=True)
        t.register_hook(lambda g: x.append(g.sum().item()))
        t.sum().backward()
        self.width(x[0])
        """,
    ),
    "a state dict loaded": (
        BOTH,
        ONES + "self.first.load_state_dict(self.first.state_dict()); self.width(w[0, 0].item() + 1)",
    ),
    "loaded from a buffer": (
        META,
        "f = io.BytesIO(); torch.save({'n': torch.full((1,), 5.)}, f); f.seek(0); self.width(torch.load(f)['n'])",
    ),
    "split by an unknown tensor": (
        BOTH,
        ONES + "i = w.detach()[0, :1].long() + 1; self.second = nn.Parameter(torch.ones(5).tensor_split(i)[0].clone())",
    ),
    "an iterator of its values": (BOTH, ONES + "self.width(next(iter(w.detach()[0])) + 1)"),
    "a set of its values": (BOTH, ONES + "self.width(len({v.item() for v in w[0]}) + 1)"),
    "by its rank": (BOTH, ONES + "self.width(torch.linalg.matrix_rank(w.detach()).item() + 1)"),
    "where it is": (BOTH, ONES + "self.second = nn.Parameter(torch.where(w.detach() > 0)[0].float())"),
    "through a copy": (BOTH, ONES + "self.width(copy.copy(w)[0, 0].item() + 1)"),
    "through another dtype": (BOTH, ONES + "self.width(w.double().detach().numpy()[0, 0] + 1)"),
    "through a foreach": (
        BOTH,
        ONES + "t = torch.zeros(1); torch._foreach_copy_([t], [w.detach()[0, :1]]); self.width(t.numpy()[0] + 1)",
    ),
    # --- random numbers
    "the state, after a fill": (
        BOTH,
        "torch.manual_seed(0); w.data.normal_(); self.width(torch.get_rng_state().sum())",
    ),
    "the state, imported": (
        BOTH,
        "from torch import get_rng_state as ask; torch.manual_seed(0); w.data.normal_(); self.width(ask().sum())",
    ),
    "the state of the generator": (
        BOTH,
        "torch.manual_seed(0); w.data.normal_(); self.width(torch.default_generator.get_state().sum())",
    ),
    "the state of its own generator": (
        BOTH,
        "g = torch.Generator().manual_seed(0); w.data.normal_(generator=g); self.width(g.get_state().sum())",
    ),
    "drawn from its own generator": (
        BOTH,
        "g = torch.Generator().manual_seed(0); w.data.normal_(generator=g); self.width(torch.rand(1, generator=g) * 9)",
    ),
    "drawn after a fill": (BOTH, "torch.manual_seed(0); w.data.normal_(); self.width(torch.rand(()) * 100)"),
    "drawn on the cpu": (
        BOTH,
        "torch.manual_seed(0); w.data.normal_(); self.width(torch.rand((), device='cpu').item() * 100)",
    ),
    "drawn in place": (
        BOTH,
        "torch.manual_seed(0); w.data.normal_(); self.width(torch.Tensor(1).uniform_(0, 100).item())",
    ),
    "drawn by normal": (
        BOTH,
        "torch.manual_seed(0); w.data.normal_(); self.width(torch.normal(0.0, 50.0, (1,)).abs().item())",
    ),
    "permuted on the cpu": (
        BOTH,
        "torch.manual_seed(0); w.data.normal_(); self.width(torch.randperm(50, device='cpu')[0])",
    ),
    "drawn from a large one": (BOTH, "torch.manual_seed(0); w.data.normal_(); self.width(w[0, 0].item() * 100)"),
    "Python's numbers": ("", "random.seed(0); self.width(random.randint(0, 100))"),
    "numpy's numbers": ("", "np.random.seed(0); self.width(np.random.randint(0, 100))"),
    "numpy's generator": ("", "self.width(np.random.default_rng(0).integers(100))"),
    "numpy's numbers in a retry": (
        META,
        "np.random.seed(0); torch.ones(()).item(); self.width(np.random.randint(0, 100))",
    ),
    "drawn in a fork of the state": (
        "",
        "\nwith torch.random.fork_rng(devices=[]):\n    torch.manual_seed(1)\n    w.data.normal_()\nself.width(4)",
    ),
}

READS = sources(_BODIES)
