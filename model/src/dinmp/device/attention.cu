// Attention over all that a row's user did, and its way back, on an NVIDIA GPU: what pool.rs and unpool.rs are on a CPU.
//
// A block has one row, a warp every fourth of its atoms, a lane one number of the hidden layer. Nothing of a pair of atom and candidate is kept. Forward, sums are made in one order, so
// they are the same each time; on the way back, what comes to an item or a mark from several rows is added up as it comes.
//
// Of items: WIDTH numbers of the vector, INNER of the key's part of the hidden layer. Of marks: INNER. Of rows: INNER of the candidate's part, then the
// product's weights times the candidate, (WIDTH, INNER).

#define WIDTH 16
#define INNER 32
#define ITEM (WIDTH + INNER)
#define ROW (INNER + WIDTH * INNER)
#define WARPS 4
#define ALL 0xffffffffu

struct Atoms {
    const unsigned *items, *marks;
    // Of each row: where its atoms begin, where they end, and its candidate.
    const unsigned *rows;
    // Of each mark.
    const unsigned *buckets;
    // Of each item, where its groups end.
    const unsigned *group_ends, *groups;
};

static __device__ float summed(float value) {
    for (int by = 16; by > 0; by /= 2) value += __shfl_xor_sync(ALL, value, by);
    return value;
}

// Which part of an item is of the other's kind: of k groups each counts 1/k.
static __device__ float share(const Atoms &of, unsigned item, unsigned other, int lane) {
    unsigned from = item ? of.group_ends[item - 1] : 0, to = of.group_ends[item];
    unsigned others = other ? of.group_ends[other - 1] : 0, end = of.group_ends[other];
    int common = 0;
    for (unsigned start = from; start < to; start += 32) {
        bool met = false;
        if (start + lane < to) {
            unsigned group = of.groups[start + lane];
            for (unsigned at = others; at < end; at++) met = met || of.groups[at] == group;
        }
        common += __popc(__ballot_sync(ALL, met));
    }
    return to > from ? (float)common / (float)(to - from) : 0.0f;
}

// Keeps the WIDTH numbers of an item's vector in every lane.
static __device__ void spread(float own, float *all) {
#pragma unroll
    for (int at = 0; at < WIDTH; at++) all[at] = __shfl_sync(ALL, own, at);
}

extern "C" __global__ void pool(
    const unsigned *items_of, const unsigned *marks_of, const unsigned *rows_of, const unsigned *buckets_of, const unsigned *group_ends, const unsigned *groups,
    const float *items, const float *marks, const float *rows, const float *attention, int places, float *out) {
    extern __shared__ float shared[];
    Atoms of = {items_of, marks_of, rows_of, buckets_of, group_ends, groups};
    int row = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int size = places * (WIDTH + 1);
    for (int at = threadIdx.x; at < WARPS * size; at += blockDim.x) shared[at] = 0.0f;
    __syncthreads();
    float *sums = shared + warp * size, *volumes = sums + places * WIDTH;
    const float *of_row = rows + (size_t)row * ROW;
    float candidate = of_row[lane], weights = attention[lane], bias = attention[INNER];
    float crossing[WIDTH], key[WIDTH];
#pragma unroll
    for (int at = 0; at < WIDTH; at++) crossing[at] = of_row[INNER + at * INNER + lane];
    unsigned asked = of.rows[3 * row + 2];
    for (unsigned atom = of.rows[3 * row] + warp; atom < of.rows[3 * row + 1]; atom += WARPS) {
        unsigned item = of.items[atom], mark = of.marks[atom];
        const float *of_item = items + (size_t)item * ITEM, *of_mark = marks + (size_t)mark * INNER;
        float own = lane < WIDTH ? of_item[lane] : 0.0f;
        spread(own, key);
        float inner = of_item[WIDTH + lane] + (candidate + of_mark[lane]);
#pragma unroll
        for (int at = 0; at < WIDTH; at++) inner = fmaf(key[at], crossing[at], inner);
        float weight = bias + summed(inner / (1.0f + expf(-inner)) * weights);
        float part = share(of, item, asked, lane);
        int place = of.buckets[mark] * 2;
        for (int side = 0; side < 2; side++) {
            float shares = side ? 1.0f - part : part;
            if (shares != 0.0f) {
                if (lane < WIDTH) sums[(place + side) * WIDTH + lane] += weight * shares * own;
                if (lane == 0) volumes[place + side] += shares;
            }
        }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < size; at += blockDim.x) {
        float sum = 0.0f;
        for (int one = 0; one < WARPS; one++) sum += shared[one * size + at];
        out[(size_t)row * size + at] = sum;
    }
}

extern "C" __global__ void unpool(
    const unsigned *items_of, const unsigned *marks_of, const unsigned *rows_of, const unsigned *buckets_of, const unsigned *group_ends, const unsigned *groups,
    const float *items, const float *marks, const float *rows, const float *attention, int places, const float *gradient,
    float *of_items, float *of_marks, float *of_rows, float *of_attention) {
    extern __shared__ float shared[];
    Atoms of = {items_of, marks_of, rows_of, buckets_of, group_ends, groups};
    int row = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // Gradients of the row's sums, then of its numbers by warp.
    float *of_sums = shared, *by_warp = shared + places * WIDTH + warp * ROW;
    for (int at = threadIdx.x; at < places * WIDTH; at += blockDim.x) of_sums[at] = gradient[(size_t)row * places * (WIDTH + 1) + at];
    __syncthreads();
    const float *of_row = rows + (size_t)row * ROW;
    float candidate = of_row[lane], weights = attention[lane], bias = attention[INNER];
    float crossing[WIDTH], crossed[WIDTH], key[WIDTH];
#pragma unroll
    for (int at = 0; at < WIDTH; at++) {
        crossing[at] = of_row[INNER + at * INNER + lane];
        crossed[at] = 0.0f;
    }
    float of_candidate = 0.0f, of_weights = 0.0f, of_bias = 0.0f;
    unsigned asked = of.rows[3 * row + 2];
    for (unsigned atom = of.rows[3 * row] + warp; atom < of.rows[3 * row + 1]; atom += WARPS) {
        unsigned item = of.items[atom], mark = of.marks[atom];
        const float *of_item = items + (size_t)item * ITEM, *of_mark = marks + (size_t)mark * INNER;
        float own = lane < WIDTH ? of_item[lane] : 0.0f;
        spread(own, key);
        float inner = of_item[WIDTH + lane] + (candidate + of_mark[lane]);
#pragma unroll
        for (int at = 0; at < WIDTH; at++) inner = fmaf(key[at], crossing[at], inner);
        float bend = 1.0f / (1.0f + expf(-inner)), bent = inner * bend;
        float slope = bend * (1.0f + inner * (1.0f - bend));
        float weight = bias + summed(bent * weights);
        float part = share(of, item, asked, lane);
        int place = of.buckets[mark] * 2;
        float of_said = 0.0f;
        if (lane < WIDTH) of_said = part * of_sums[place * WIDTH + lane] + (1.0f - part) * of_sums[(place + 1) * WIDTH + lane];
        float of_weight = summed(of_said * own);
        float *to_mark = of_marks + (size_t)mark * INNER, *to_item = of_items + (size_t)item * ITEM;
        float below = of_weight * weights * slope;
        atomicAdd(to_mark + lane, below);
        atomicAdd(to_item + WIDTH + lane, below);
        of_candidate += below;
        of_weights += of_weight * bent;
        of_bias += of_weight;
        // Over all lanes, WIDTH sums at once: each step halves how many a lane has.
        float back[WIDTH];
#pragma unroll
        for (int at = 0; at < WIDTH; at++) {
            crossed[at] = fmaf(key[at], below, crossed[at]);
            back[at] = crossing[at] * below;
        }
#pragma unroll
        for (int half = WIDTH / 2; half > 0; half /= 2) {
            bool high = lane & (2 * half);
#pragma unroll
            for (int at = 0; at < half; at++) {
                float give = high ? back[at] : back[at + half], keep = high ? back[at + half] : back[at];
                back[at] = keep + __shfl_xor_sync(ALL, give, 2 * half);
            }
        }
        // Lanes 2 n and 2 n + 1 have the halves of number n.
        float both = back[0] + __shfl_xor_sync(ALL, back[0], 1);
        float of_key = __shfl_sync(ALL, both, (2 * lane) % 32) + weight * of_said;
        if (lane < WIDTH) atomicAdd(to_item + lane, of_key);
    }
    by_warp[lane] = of_candidate;
#pragma unroll
    for (int at = 0; at < WIDTH; at++) by_warp[INNER + at * INNER + lane] = crossed[at];
    atomicAdd(of_attention + lane, of_weights);
    if (lane == 0) atomicAdd(of_attention + INNER, of_bias);
    __syncthreads();
    for (int at = threadIdx.x; at < ROW; at += blockDim.x) {
        float sum = 0.0f;
        for (int one = 0; one < WARPS; one++) sum += shared[places * WIDTH + one * ROW + at];
        of_rows[(size_t)row * ROW + at] = sum;
    }
}
