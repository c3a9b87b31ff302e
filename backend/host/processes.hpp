// What executors need when each rank is a process: agreeing to refuse, finding out who shares a computer, and
// everybody's marks at rank 0. All ranks call these in the same order.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/host/clock.hpp"
#include "backend/transport.hpp"

namespace moesim::backend {

// What each rank says, at every rank; cut after `most_told` bytes.
inline constexpr std::size_t most_told = 511;
std::vector<std::string> tell_all(Transport& transport, std::string_view own, double patience);

// Runs a step that may refuse. When one rank has to, for its memory say, all throw its Refused: the others would wait
// for it.
void agree(Transport& transport, double patience, const std::function<void()>& step);

// This process's position among those on the same computer, by rank.
int place_on_computer(Transport& transport, double patience);

// marks[rank][op]: of all ranks at rank 0; elsewhere the own alone, the rest without part.
std::vector<Marks> gather_marks(Transport& transport, const Marks& own, double patience);

}  // namespace moesim::backend
